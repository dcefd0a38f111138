package tokensource

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// testRSA is made once: that takes a while.
var testRSA = sync.OnceValue(func() *rsa.PrivateKey { return rsaKey(2048) })

// weakRSA is too short to sign with.
var weakRSA = sync.OnceValue(func() *rsa.PrivateKey { return rsaKey(1024) })

func rsaKey(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

// newKey makes a private key of a kind: "RSA", a curve, or "Ed25519".
func newKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "RSA":
		return testRSA()
	case "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		curves := map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}
		key, err = ecdsa.GenerateKey(curves[kind], rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// toPEM writes a private key as PKCS #8.
func toPEM(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("PRIVATE KEY", der)
}

func pemBlock(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pemKey(t testing.TB, kind string) string { return toPEM(t, newKey(t, kind)) }

// toPKCS1 writes an RSA key, and toSEC1 one of a curve, as openssl long did.
func toPKCS1(key *rsa.PrivateKey) string {
	return pemBlock("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

func toSEC1(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("EC PRIVATE KEY", der)
}

// toJWK writes a key as a JWK, with changes as JSON; "-" takes a field out.
func toJWK(t testing.TB, key any, changes ...string) string {
	t.Helper()
	text, err := (&jose.JSONWebKey{Key: key}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(changes); i += 2 {
		fields[changes[i]] = json.RawMessage(changes[i+1])
		if changes[i+1] == "-" {
			delete(fields, changes[i])
		}
	}
	if text, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const robot = "robot@project.iam.gserviceaccount.example"

// toServiceAccount writes a key as Google has it, indented.
func toServiceAccount(t testing.TB, key any) string {
	t.Helper()
	text, err := json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": "project", "private_key_id": "0123456789abcdef0123", "private_key": toPEM(t, key),
		"client_email": robot, "client_id": "103000000000000000000", "token_uri": "https://oauth2.example.org/token", "universe_domain": "example.org",
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

// certify makes a certificate of a key, in PEM.
func certify(t testing.TB, key crypto.Signer, from, to time.Time) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("CERTIFICATE", der)
}

// validly makes one that holds now.
func validly(t testing.TB, key crypto.Signer) string {
	return certify(t, key, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
}

var keyKinds = map[string][]string{
	"RSA":     {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
	"P-256":   {"ES256"},
	"P-384":   {"ES384"},
	"P-521":   {"ES512"},
	"Ed25519": {"EdDSA"},
}

// keyForms are all texts that hold a key.
func keyForms(t testing.TB, key crypto.Signer) map[string]string {
	plain := toPEM(t, key)
	certificate := validly(t, key)
	forms := map[string]string{
		"PKCS #8":                           plain,
		"PKCS #8 with CRLF":                 strings.ReplaceAll(plain, "\n", "\r\n"),
		"PKCS #8, indented":                 "\t" + strings.ReplaceAll(plain, "\n", "\n\t  "),
		"PKCS #8 on one line":               strings.ReplaceAll(plain, "\n", `\n`),
		"PKCS #8 with a byte order mark":    "\xef\xbb\xbf" + plain,
		"PKCS #8 behind words":              "Bag Attributes\n    friendlyName: client\nKey Attributes: <No Attributes>\n" + plain,
		"key, certificate":                  plain + certificate,
		"certificate, key":                  certificate + plain,
		"key, certificate without newline":  strings.TrimSpace(plain) + certificate,
		"certificate, key without newline":  strings.TrimSpace(certificate) + plain,
		"key, certificate on one line":      strings.ReplaceAll(plain+certificate, "\n", `\n`),
		"key, certificate, its authority's": plain + certificate + validly(t, newKey(t, "P-256")),
		"JWK":                               toJWK(t, key),
		"JWK with a byte order mark":        "\xef\xbb\xbf" + toJWK(t, key),
		"JWK with more in it":               toJWK(t, key, "use", `"sig"`, "key_ops", `["sign"]`, "created", "17"),
		"service account":                   toServiceAccount(t, key),
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		forms["PKCS #1"] = toPKCS1(key)
		forms["PKCS #1, certificate"] = toPKCS1(key) + certificate
	case *ecdsa.PrivateKey:
		forms["SEC 1"] = toSEC1(t, key)
		forms["SEC 1 behind its parameters"] = pemBlock("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}) + toSEC1(t, key)
	}
	return forms
}

func jwkField(t testing.TB, key any, name string) json.RawMessage {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(toJWK(t, key)), &fields); err != nil {
		t.Fatal(err)
	}
	return fields[name]
}

func TestAKeySignsInEveryFormWithEveryAlgorithmThatFitsAndNoOther(t *testing.T) {
	t.Parallel()
	all := slices.Concat(SigningAlgs(), SecretSigningAlgs(), []string{"none", "None", "", "RS1", "ES256K", "Ed25519", "RSA-OAEP", "rs256"})
	for kind, fitting := range keyKinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			private := newKey(t, kind)
			for form, text := range keyForms(t, private) {
				key, err := parseKey(text)
				if err != nil {
					t.Errorf("%s: %v", form, err)
					continue
				}
				for _, wanted := range all {
					alg, err := key.algorithm(wanted)
					if form == "JWK" && CheckPrivateKey(text, wanted) == nil != (err == nil) {
						t.Errorf("%s: CheckPrivateKey does not say of %q what signing does: %v", form, wanted, err)
					}
					if wanted != "" && !slices.Contains(fitting, wanted) {
						if err == nil {
							t.Errorf("%s: it signs with %q", form, wanted)
						}
						continue
					}
					if err != nil || wanted == "" && alg != fitting[0] || wanted != "" && alg != wanted {
						t.Errorf("%s: %q is %q: %v", form, wanted, alg, err)
						continue
					}
					if wanted == "" {
						continue
					}
					header, err := key.header("", time.Now())
					if err != nil {
						t.Errorf("%s: %v", form, err)
						continue
					}
					signed, err := signJWT(alg, key.private, header, map[string]any{"iss": "client"})
					if err != nil {
						t.Errorf("%s: %v", form, err)
						continue
					}
					if got := verified(t, signed, private.Public()); got.header["alg"] != alg || got.claims["iss"] != "client" {
						t.Errorf("%s: signed %v, %v with %s", form, got.header, got.claims, alg)
					}
				}
			}
		})
	}
}

// TestAKeyIsNeverTakenForSomethingElse holds what go-jose would do if it were let:
// a text of a key would sign as a shared secret.
func TestAKeyIsNeverTakenForSomethingElse(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	for _, alg := range []string{"HS256", "HS384", "HS512", "none", "", "RS256", "ES384", "EdDSA", "PS256"} {
		if signed, err := signJWT(alg, key, map[string]any{"typ": "JWT"}, map[string]any{}); err == nil {
			t.Errorf("%q: signed %s", alg, signed)
		}
	}
}

func TestAJWKSignsWithItsOwnAlgorithmAlone(t *testing.T) {
	t.Parallel()
	rsaKey, ecKey := newKey(t, "RSA"), newKey(t, "P-256")
	key, err := parseKey(toJWK(t, rsaKey, "alg", `"PS384"`, "kid", `"key 7"`))
	if err != nil {
		t.Fatal(err)
	}
	if alg, err := key.algorithm(""); alg != "PS384" || err != nil {
		t.Errorf("%q, %v", alg, err)
	}
	if _, err := key.algorithm("RS256"); err == nil || !strings.Contains(err.Error(), "signing_alg: RS256 does not fit the private key, with which there is PS384") {
		t.Errorf("%v", err)
	}
	for own, want := range map[string]string{"": "key 7", "key 8": "key 8"} {
		if header, err := key.header(own, time.Now()); err != nil || header["kid"] != want {
			t.Errorf("key_id %q: %v, %v", own, header, err)
		}
	}
	for alg, private := range map[string]crypto.Signer{
		`"HS256"`: rsaKey, `"none"`: rsaKey, `"ES256"`: rsaKey, `"RSA-OAEP"`: rsaKey, `"RS256"`: ecKey, `"ES384"`: ecKey, `"EdDSA"`: ecKey, `"HS512"`: ecKey,
	} {
		_, err := parseKey(toJWK(t, private, "alg", alg))
		if err == nil || !strings.Contains(err.Error(), "which does not fit its kty") {
			t.Errorf("alg %s: %v", alg, err)
		}
	}
}

func TestWhatIsNoPrivateKeyIsRefusedInWordsThatHelp(t *testing.T) {
	t.Parallel()
	ec, other := newKey(t, "P-256"), newKey(t, "P-256")
	public := func(key crypto.Signer) string {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return pemBlock("PUBLIC KEY", der)
	}
	encrypted := pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: []byte("0123456789abcdef"),
	})
	x25519 := `{"kty":"OKP","crv":"X25519","d":"` + b64(make([]byte, 32)) + `","x":"` + b64(make([]byte, 32)) + `"}`
	for name, test := range map[string]struct{ text, want string }{
		"a word":                        {"CANARY-secret", "this is neither PEM nor JSON; write {file.PATH}"},
		"a path":                        {"/run/secrets/CANARY.pem", "write {file.PATH} with the path"},
		"base64 without its frame":      {b64([]byte(toPEM(t, ec))), "neither PEM nor JSON"},
		"DER":                           {string(x509.MarshalPKCS1PrivateKey(testRSA())), "neither PEM nor JSON"},
		"a public key":                  {public(ec), "this is the public key; the private one is needed"},
		"a public key of RSA":           {pemBlock("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&testRSA().PublicKey)), "this is the public key"},
		"a public JWK":                  {toJWK(t, ec.Public()), "this is the public key"},
		"a public JWK of RSA":           {toJWK(t, testRSA().Public()), "this is the public key"},
		"a public JWK of Ed25519":       {toJWK(t, newKey(t, "Ed25519").Public()), "this is the public key"},
		"a certificate":                 {validly(t, ec), "this is a certificate; its private key is needed"},
		"a secret as JWK":               {toJWK(t, []byte("CANARY-secret-of-a-client-32-bytes")), "shared secret (kty oct)"},
		"a set of JWKs":                 {`{"keys":[` + toJWK(t, ec) + `]}`, "this is a set of keys"},
		"an empty set":                  {`{"keys":[]}`, "this is a set of keys"},
		"JSON of something else":        {`{"client_id":"CANARY","type":"authorized_user"}`, "neither a JWK (it has no kty) nor a service account's key"},
		"a JWK of an unknown kty":       {`{"kty":"CANARY","d":"CANARY"}`, "the JWK is broken"},
		"a JWK without d":               {toJWK(t, testRSA(), "d", `""`), "the JWK is broken"},
		"a JWK whose kty lies":          {toJWK(t, ec, "kty", `"RSA"`), "the JWK is broken"},
		"a JWK off its curve":           {toJWK(t, ec, "x", `"`+b64(make([]byte, 32))+`"`), "the JWK is broken"},
		"a JWK of another curve":        {toJWK(t, ec, "crv", `"P-384"`), "the JWK is broken"},
		"a JWK of secp256k1":            {toJWK(t, ec, "crv", `"secp256k1"`), "the JWK is broken"},
		"a JWK whose halves differ":     {toJWK(t, ec, "d", string(jwkField(t, other, "d"))), "its public half belongs to another key"},
		"a JWK whose halves differ, Ed": {toJWK(t, newKey(t, "Ed25519"), "x", string(jwkField(t, newKey(t, "Ed25519"), "x"))), "the JWK is broken"},
		"a JWK to agree on keys":        {x25519, "the JWK is broken"},
		"a JWK that steers a terminal":  {toJWK(t, ec, "kid", `"CANARY\u001b[2J"`), "the JWK's kid holds control characters"},
		"RSA of 1024 bits":              {toPEM(t, weakRSA()), "an RSA key of 1024 bits is too short; 2048 are the least"},
		"RSA of 1024 bits, PKCS #1":     {toPKCS1(weakRSA()), "an RSA key of 1024 bits is too short"},
		"RSA of 1024 bits, JWK":         {toJWK(t, weakRSA()), "an RSA key of 1024 bits is too short"},
		"P-224":                         {pemKey(t, "P-224"), "the curve P-224 has no signing algorithm"},
		"P-224, SEC 1":                  {toSEC1(t, newKey(t, "P-224")), "the curve P-224 has no signing algorithm"},
		"with a password":               {pemBlock("ENCRYPTED PRIVATE KEY", []byte("CANARY")), "it is encrypted with a password; decrypt it (openssl pkey"},
		"with a password, of old":       {string(encrypted), "it is encrypted with a password"},
		"OpenSSH":                       {pemBlock("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00CANARY")), "convert it: ssh-keygen -p -m PKCS8 -f KEY"},
		"a PGP key":                     {pemBlock("PGP PRIVATE KEY BLOCK", []byte("CANARY")), `a PEM block of type "PGP PRIVATE KEY BLOCK" is no private key`},
		"a request for a certificate":   {pemBlock("CERTIFICATE REQUEST", []byte("CANARY")), `of type "CERTIFICATE REQUEST" is no private key`},
		"PEM of anything":               {pemBlock("PRIVATE KEY", []byte("CANARY-CANARY")), "the PRIVATE KEY is broken"},
		"PEM of another form":           {pemBlock("RSA PRIVATE KEY", mustDER(t, ec)), "the RSA PRIVATE KEY is broken"},
		"an empty PEM":                  {"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "broken"},
		"two keys":                      {toPEM(t, ec) + toPEM(t, other), "there is more than one private key in it"},
		"a key and a broken one":        {toPEM(t, ec) + pemBlock("PRIVATE KEY", []byte("CANARY")), "the PRIVATE KEY is broken"},
		"a key and a broken certificate": {toPEM(t, ec) + pemBlock("CERTIFICATE", []byte("CANARY")),
			"a certificate in it is broken"},
		"a service account without PEM": {`{"type":"service_account","private_key":"CANARY","client_email":"` + robot + `"}`, "there is no private key in it"},
		"two JSON values":               {toJWK(t, ec) + toJWK(t, ec), "the JSON is broken"},
		"JSON whose fields are others":  {`{"kty":["CANARY-CANARY"]}`, "the JSON is broken"},
	} {
		for _, text := range []string{test.text, " \n" + test.text + "\n\n"} {
			err := CheckPrivateKey(text, "")
			if err == nil || !strings.HasPrefix(err.Error(), "private_key: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %s", name, err, test.want)
				continue
			}
			wantNothingOf(t, name, err, text)
		}
	}
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func mustDER(t testing.TB, key any) []byte {
	block, _ := pem.Decode([]byte(toPEM(t, key)))
	return block.Bytes
}

// told is what an error about a key may repeat: the names of forms, and what is no
// part of a key.
var told = regexp.MustCompile(`(alg|type) "([^"\\]|\\.)*"|private_key|client_email|service account|(RSA |EC |OPENSSH |ENCRYPTED )?(PRIVATE|PUBLIC) KEY`)

// wantNothingOf fails where an error shows 8 bytes of a key in a row.
func wantNothingOf(t testing.TB, name string, err error, text string) {
	t.Helper()
	shown := told.ReplaceAllString(err.Error(), "\x00")
	for i := 0; i+8 <= len(shown); i++ {
		if piece := shown[i : i+8]; !strings.Contains(piece, "\x00") && strings.Contains(text, piece) {
			t.Errorf("%s: the error shows %q of the key: %v", name, piece, err)
			return
		}
	}
}

// TestAKeyThatIsNotWrittenToItsEndIsRefusedAtEveryLength holds what happens while a
// file is written: a piece of a key is none, and neither is a key that lacks the
// certificate which is to go with it.
func TestAKeyThatIsNotWrittenToItsEndIsRefusedAtEveryLength(t *testing.T) {
	t.Parallel()
	ec := newKey(t, "P-256")
	plain, certificate := toPEM(t, ec), validly(t, ec)
	for name, test := range map[string]struct {
		text  string
		whole []string // beginnings that are a key by themselves
	}{
		"PKCS #8":                      {text: plain},
		"PKCS #8 on one line":          {text: strings.ReplaceAll(plain, "\n", `\n`), whole: []string{plain}},
		"PKCS #1":                      {text: toPKCS1(testRSA())},
		"SEC 1":                        {text: toSEC1(t, ec)},
		"SEC 1 behind its parameters":  {text: pemBlock("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}) + toSEC1(t, ec)},
		"key, certificate":             {text: plain + certificate, whole: []string{plain}},
		"key, certificate, no newline": {text: strings.TrimSpace(plain) + certificate, whole: []string{plain}},
		"certificate, key":             {text: certificate + plain},
		"key, two certificates":        {text: plain + certificate + validly(t, newKey(t, "P-256")), whole: []string{plain, plain + certificate}},
		"JWK":                          {text: toJWK(t, ec)},
		"JWK of RSA":                   {text: toJWK(t, testRSA())},
		"service account":              {text: toServiceAccount(t, ec)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			whole := make(map[string]bool)
			for _, text := range append(test.whole, test.text) {
				text = strings.TrimSpace(text)
				whole[text], whole[strings.TrimSuffix(strings.ReplaceAll(text, "\n", `\n`), `\n`)] = true, true
			}
			for n := range len(test.text) + 1 {
				text := test.text[:n]
				err := CheckPrivateKey(text, "")
				switch isWhole := whole[strings.TrimSpace(text)]; {
				case isWhole && err != nil:
					t.Fatalf("%d of %d bytes are whole: %v", n, len(test.text), err)
				case isWhole:
				case err == nil:
					t.Fatalf("%d of %d bytes are taken for a key: …%q", n, len(test.text), text[max(0, n-40):])
				default:
					wantNothingOf(t, name, err, text)
				}
			}
		})
	}
}

func TestACertificateGoesWithItsKeyWhileItHolds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for kind := range keyKinds {
		key := newKey(t, kind)
		authority := validly(t, newKey(t, "P-256"))
		text := validly(t, key) + authority + toPEM(t, key)
		parsed, err := parseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		header, err := parsed.header("", now)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signJWT(parsed.algs[0], parsed.private, header, map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		got := verified(t, signed, key.Public())
		x5c, _ := got.header["x5c"].([]any)
		leaf, _ := pem.Decode([]byte(validlyOf(text)))
		if len(x5c) != 2 || x5c[0] != base64.StdEncoding.EncodeToString(leaf.Bytes) {
			t.Errorf("%s: x5c is %v", kind, got.header["x5c"])
		}
		if got.header["x5t#S256"] != b64(sha256Of(leaf.Bytes)) {
			t.Errorf("%s: x5t#S256 is %v", kind, got.header["x5t#S256"])
		}
	}
	key, other := newKey(t, "P-256"), newKey(t, "P-256")
	for name, test := range map[string]struct{ certificate, want string }{
		"of another key":      {validly(t, other), "the certificate that stands with it belongs to another key"},
		"of a key of RSA":     {validly(t, testRSA()), "belongs to another key"},
		"that has ended":      {certify(t, key, now.Add(-48*time.Hour), now.Add(-24*time.Hour)), "ended on " + now.Add(-24*time.Hour).UTC().Format(time.DateTime)},
		"that has just ended": {certify(t, key, now.Add(-48*time.Hour), now.Add(-2*time.Second)), "ended on "},
		"that is yet to come": {certify(t, key, now.Add(24*time.Hour), now.Add(48*time.Hour)), "begins on " + now.Add(24*time.Hour).UTC().Format(time.DateTime)},
	} {
		for _, text := range []string{toPEM(t, key) + test.certificate, test.certificate + toPEM(t, key)} {
			parsed, err := parseKey(text)
			if err != nil {
				t.Fatal(err)
			}
			_, err = parsed.header("", now)
			if err == nil || !strings.HasPrefix(err.Error(), "private_key: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %s", name, err, test.want)
			}
		}
	}
}

// validlyOf returns the first certificate of a text.
func validlyOf(text string) string {
	return text[strings.Index(text, "-----BEGIN CERTIFICATE"):]
}

func TestTheHeaderOfAJWTNamesTheKeyAndNothingElse(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	for name, test := range map[string]struct {
		text, id string
		want     map[string]any
	}{
		"PEM":                                 {toPEM(t, key), "", map[string]any{"typ": "JWT", "alg": "ES256"}},
		"PEM with key_id":                     {toPEM(t, key), "k/1", map[string]any{"typ": "JWT", "alg": "ES256", "kid": "k/1"}},
		"JWK":                                 {toJWK(t, key), "", map[string]any{"typ": "JWT", "alg": "ES256"}},
		"JWK with kid":                        {toJWK(t, key, "kid", `"7"`), "", map[string]any{"typ": "JWT", "alg": "ES256", "kid": "7"}},
		"service account":                     {toServiceAccount(t, key), "", map[string]any{"typ": "JWT", "alg": "ES256", "kid": "0123456789abcdef0123"}},
		"service account, and another key_id": {toServiceAccount(t, key), "9", map[string]any{"typ": "JWT", "alg": "ES256", "kid": "9"}},
	} {
		parsed, err := parseKey(test.text)
		if err != nil {
			t.Fatal(err)
		}
		header, err := parsed.header(test.id, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signJWT("ES256", parsed.private, header, map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		if got := verified(t, signed, key.Public()).header; !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// FuzzPrivateKey holds that no text makes a panic, an error that shows it, or a key
// that signs with what is no algorithm of it.
func FuzzPrivateKey(f *testing.F) {
	for kind := range keyKinds {
		key := newKey(f, kind)
		for _, text := range keyForms(f, key) {
			f.Add(text, "")
			f.Add(text[:len(text)*2/3], "RS256")
		}
	}
	f.Add(toPEM(f, weakRSA()), "PS256")
	f.Add(`{"kty":"oct","k":"AAAA"}`, "HS256")
	f.Add("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----", "none")
	f.Fuzz(func(t *testing.T, text, alg string) {
		key, err := parseKey(text)
		if err != nil {
			wantNothingOf(t, "a text", err, text)
			return
		}
		if got, err := key.algorithm(alg); err != nil {
			if slices.Contains(key.algs, alg) {
				t.Errorf("%q does not fit", alg)
			}
		} else if !slices.Contains(SigningAlgs(), got) {
			t.Errorf("it signs with %q", got)
		}
		header, err := key.header("", time.Now())
		if err != nil {
			return
		}
		signed, err := signJWT(key.algs[0], key.private, header, map[string]any{})
		if err == nil {
			verified(t, signed, key.private.Public())
		}
	})
}
