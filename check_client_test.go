package injecttoken

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writtenKey is a private key as PEM. Its second line is a secret of this run.
func writtenKey(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func newKeys(t *testing.T) (ec *ecdsa.PrivateKey, strong, weak *rsa.PrivateKey) {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for bits, into := range map[int]**rsa.PrivateKey{2048: &strong, 1024: &weak} {
		if *into, err = rsa.GenerateKey(rand.Reader, bits); err != nil {
			t.Fatal(err)
		}
	}
	return ec, strong, weak
}

func quoted(t *testing.T, text string) string {
	t.Helper()
	out, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestAKeyThatIsWrittenOutIsCheckedWhenItIsWritten(t *testing.T) {
	ec, strong, weak := newKeys(t)
	text := writtenKey(t, ec)
	const fits = ""
	for _, c := range []struct{ title, key, alg, want string }{
		{"a key", text, "", fits},
		{"a key and its algorithm", text, "ES256", fits},
		{"a key on one line", strings.ReplaceAll(text, "\n", `\n`), "", fits},
		{"a key of RSA and any of its algorithms", writtenKey(t, strong), "PS384", fits},
		{"an algorithm of another key", text, "RS256", "signing_alg: RS256 does not fit the private key, with which there is ES256"},
		{"an algorithm of another curve", text, "ES384", "signing_alg: ES384 does not fit the private key, with which there is ES256"},
		{"a key that is too short", writtenKey(t, weak), "", "private_key: an RSA key of 1024 bits is too short; 2048 are the least (RFC 7518, section 3.3)"},
		{"half a key", text[:len(text)/2], "", "private_key: the PEM is broken, or not whole"},
		{"two keys", text + writtenKey(t, strong), "", "private_key: there is more than one private key in it"},
	} {
		t.Run(c.title, func(t *testing.T) {
			changes := map[string]string{"client_secret": "", "private_key": quoted(t, c.key)}
			if c.alg != "" {
				changes["signing_alg"] = quoted(t, c.alg)
			}
			logged, err := validate([]byte(`{"apps": {"token_sources": {"sources": {"crm": ` + sourceJSON(t, changes) + `}}}}`))
			if (err == nil) != (c.want == fits) || err != nil && !strings.HasSuffix(err.Error(), ": source crm: "+c.want) {
				t.Errorf("the error is %v, and this was expected at its end: %s", err, c.want)
			}
			secret := c.key[len("-----BEGIN PRIVATE KEY-----\n"):][:40]
			if err != nil && strings.Contains(err.Error(), secret) || strings.Contains(logged, secret) {
				t.Errorf("the key is shown: %v\n%s", err, logged)
			}
			if err == nil && !strings.Contains(logged, "private_key") {
				t.Errorf("nobody is told to put the key into a file: %s", logged)
			}
		})
	}
}

// TestAClientThatProvesItselfByItsCertificateNeedsNothingElse has files, for Caddy
// reads them when it is configured.
func TestAClientThatProvesItselfByItsCertificateNeedsNothingElse(t *testing.T) {
	ec, _, _ := newKeys(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "crm"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ec.Public(), ec)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, text := range map[string]string{cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), key: writtenKey(t, ec)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, method := range []string{"tls_client_auth", "self_signed_tls_client_auth"} {
		config, err := adapt(`{
	token_sources {
		source crm {
			grant client_credentials
			token_url https://auth.example.org/token
			client_id crm
			client_auth ` + method + `
			transport http {
				tls_client_auth ` + cert + ` ` + key + `
			}
		}
	}
}
http://localhost {
	inject_token crm https://api.example.org
}`)
		if err != nil {
			t.Fatal(err)
		}
		if logged, err := validate(config); err != nil {
			t.Errorf("%s: %v, %s", method, err, logged)
		}
		if want := `"client_auth":"` + method + `"`; !strings.Contains(string(config), want) {
			t.Errorf("%s is missing: %s", want, config)
		}
	}
}

func TestAWrongProofOfTheClientInJSONIsRefused(t *testing.T) {
	type fields = map[string]string
	const prefix = "loading token_sources app module: provision token_sources: source crm: "
	const file, secret = `"{file./run/secrets/key}"`, `"CANARY-client-secret"`
	const algs = "there are: ES256, ES384, ES512, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512"
	for _, c := range []struct {
		title   string
		changes fields
		want    string
	}{
		{"a key beside a secret", fields{"private_key": file}, "private_key: client_secret proves the client already; leave one of them out"},
		{"a key beside a secret, that is to sign", fields{"private_key": file, "client_auth": `"private_key_jwt"`}, "client_secret: client_auth private_key_jwt has no use for it"},
		{"a key beside a certificate", fields{"private_key": file, "client_secret": "", "client_auth": `"tls_client_auth"`, "transport": `{"tls": {"client_certificate_file": "/c", "client_certificate_key_file": "/k"}}`},
			"private_key: client_auth tls_client_auth has no use for it; leave that out, or write private_key_jwt"},
		{"a key that is a path", fields{"private_key": `"/run/CANARY.pem"`, "client_secret": ""}, "private_key: this is neither PEM nor JSON; write {file.PATH} with the path of a key in PEM, of a JWK, or of a service account's JSON file"},
		{"a key that is half JSON", fields{"private_key": `"{\"kty\":\"EC\",\"d\":\"CANARY"`, "client_secret": ""}, "private_key: the JSON is broken, or not whole"},
		{"a key without a client", fields{"grant": `"password"`, "username": `"robot"`, "password": `"CANARY"`, "private_key": file, "client_secret": "", "client_id": ""}, "client_id: missing; it is who the assertion is of"},
		{"an assertion beside a secret", fields{"client_assertion": `"CANARY"`}, "client_assertion: client_secret proves the client already; leave one of them out"},
		{"an assertion beside a key", fields{"client_assertion": `"CANARY"`, "private_key": file, "client_secret": ""}, "client_assertion: this is a ready assertion, so that private_key has nothing to sign; write one of them"},
		{"an assertion that is not sent", fields{"client_assertion": `"CANARY"`, "client_auth": `"client_secret_post"`}, "client_assertion: client_auth client_secret_post has no use for it; leave that out, or write private_key_jwt"},
		{"private_key_jwt without a key", fields{"client_auth": `"private_key_jwt"`, "client_secret": ""}, "private_key: missing; client_auth private_key_jwt needs it, or client_assertion"},
		{"client_secret_jwt without a secret", fields{"client_auth": `"client_secret_jwt"`, "client_secret": ""}, "client_secret: missing; client_auth client_secret_jwt needs it"},
		{"raw with a key", fields{"private_key": file, "client_secret": "", "client_auth": `"private_key_jwt"`, "client_auth_raw": "true"}, "client_auth: raw goes with client_secret_basic alone"},
		{"a certificate that is none", fields{"client_auth": `"tls_client_auth"`, "client_secret": "", "transport": `{"tls": {}}`}, "client_auth: tls_client_auth proves the client by its certificate; write transport http { tls_client_auth CERTIFICATE-FILE KEY-FILE }"},
		{"a certificate and no client", fields{"grant": `"password"`, "username": `"robot"`, "password": `"CANARY"`, "client_id": "", "client_auth": `"tls_client_auth"`, "client_secret": "",
			"transport": `{"tls": {"client_certificate_file": "/c", "client_certificate_key_file": "/k"}}`}, "client_id: missing; client_auth tls_client_auth needs it (RFC 8705, section 2)"},
		{"an algorithm without a key", fields{"signing_alg": `"RS256"`}, "signing_alg: nothing is signed here; it goes with private_key, or with client_auth client_secret_jwt"},
		{"a key_id without a key", fields{"key_id": `"7"`}, "key_id: nothing is signed here; it goes with private_key, or with client_auth client_secret_jwt"},
		{"claims without a key", fields{"claims": `[{"name": "aud", "value": "x"}]`}, "claim: nothing is signed here; it goes with private_key, or with client_auth client_secret_jwt"},
		{"the algorithm none", fields{"private_key": file, "client_secret": "", "signing_alg": `"none"`}, "signing_alg: none signs nothing, and proves nothing; " + algs},
		{"the algorithm of a secret", fields{"private_key": file, "client_secret": "", "signing_alg": `"HS256"`}, "signing_alg: HS256 signs with a shared secret, not with a private key; " + algs},
		{"the algorithm of a key", fields{"client_auth": `"client_secret_jwt"`, "client_secret": secret, "signing_alg": `"PS256"`}, "signing_alg: PS256 signs with a private key, not with a shared secret; there are: HS256, HS384, HS512"},
		{"an algorithm in lower case", fields{"private_key": file, "client_secret": "", "signing_alg": `"rs384"`}, "signing_alg: unknown algorithm; did you mean RS384?"},
		{"a claim without a name", fields{"private_key": file, "client_secret": "", "claims": `[{"name": "", "value": "x"}]`}, "claim : a claim has no name"},
		{"a claim of the clock", fields{"private_key": file, "client_secret": "", "claims": `[{"name": "iat", "value": "0"}]`}, "claim iat: it is made anew for each assertion"},
		{"a claim with a placeholder of a request", fields{"private_key": file, "client_secret": "", "claims": `[{"name": "sub", "value": "{http.auth.user.id}"}]`},
			"claim sub: a placeholder of a request cannot be used: a token request belongs to no caller's request; there are {env.*} and {file.*}"},
		{"dpop none", fields{"dpop": `"none"`}, "dpop: none signs nothing, and proves nothing; " + algs},
		{"dpop by a secret", fields{"dpop": `"HS512"`}, "dpop: HS512 signs with a shared secret, not with a private key; " + algs},
		{"dpop in lower case", fields{"dpop": `"es256"`}, "dpop: unknown algorithm; did you mean ES256?"},
		{"dpop of custom", fields{"grant": `"custom"`, "client_id": "", "client_secret": "", "dpop": `"ES256"`}, "dpop: the grant custom has no use for it; it sends nothing but what is written as param, header or url"},
		{"jwt_bearer without a key", fields{"grant": `"jwt_bearer"`}, "private_key: missing; the grant jwt_bearer needs it"},
		{"no subject", fields{"grant": `"token_exchange"`}, "subject_token: missing; the grant token_exchange needs it"},
		{"a subject of another grant", fields{"subject_token": `"CANARY"`}, "subject_token: the grant client_credentials has no use for it; did you mean grant token_exchange?"},
		{"a subject of an unknown type", fields{"grant": `"token_exchange"`, "subject_token": `"CANARY"`, "subject_token_type": `"CANARY token"`},
			"subject_token: this is no type of a token; there are access_token, refresh_token, id_token, saml1, saml2, jwt, or a whole URI such as urn:ietf:params:oauth:token-type:jwt"},
		{"a type of an actor that is missing", fields{"grant": `"token_exchange"`, "subject_token": `"CANARY"`, "actor_token_type": `"jwt"`}, "actor_token: a type without a token"},
		{"each caller as actor", fields{"grant": `"token_exchange"`, "subject_token": `"CANARY"`, "actor_token": `"caller"`}, "actor_token: caller can be the subject_token alone"},
	} {
		t.Run(c.title, func(t *testing.T) {
			got := refusal(t, `{"apps": {"token_sources": {"sources": {"crm": `+sourceJSON(t, c.changes)+`}}}}`)
			if got != prefix+c.want {
				t.Errorf("the error is\n%s\nand this was expected:\n%s", got, prefix+c.want)
			}
		})
	}
}
