package caddy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// operator is someone with a certificate.
type operator struct {
	cert, key string // files
	der       string // in base64, as Caddy's configuration has it
}

func newOperator(t *testing.T, name string) operator {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	harness.WriteFile(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	harness.WriteFile(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return operator{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), base64.StdEncoding.EncodeToString(der)}
}

// remoteDesk is a desk in another place: the admin API is asked with mutual TLS.
type remoteDesk struct {
	*desk
	address             string // https://HOST:PORT
	ca                  string // a file
	admin, reader, none operator
}

func (r *remoteDesk) as(o operator, args ...string) []string {
	return append(args, "--address", r.address, "--cert", o.cert, "--key", o.key, "--ca", r.ca)
}

// newRemoteDesk has an operator who may do everything, one who may only read,
// and one whom Caddy does not know.
func newRemoteDesk(t *testing.T) *remoteDesk {
	t.Helper()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Offline = true })
	r := &remoteDesk{desk: &desk{t: t, provider: p}, admin: newOperator(t, "admin"), reader: newOperator(t, "reader"), none: newOperator(t, "none")}
	t.Cleanup(r.assertHidden)
	secret := t.TempDir()
	harness.WriteFile(t, secret, "secret", provider.ClientSecret)
	local := "127.0.0.1:" + itoa(harness.Port(t))
	remote := "127.0.0.1:" + itoa(harness.Port(t))

	text, url := caddyfile(t, personSource(p, "crm", "authorization_code", "redirect_uri CALLBACK"), atCallback(p))
	dir := t.TempDir()
	harness.WriteFile(t, dir, "Caddyfile", strings.NewReplacer("{{globals}}", "admin "+local+"\n\tskip_install_trust\n\tdebug\n\tauto_https off",
		"{{dir}}", secret, "CALLBACK", url+callbackPath).Replace(text))
	var config map[string]any
	if err := json.Unmarshal([]byte(harness.Output(t, dir, "adapt", "--config", "Caddyfile")), &config); err != nil {
		t.Fatal(err)
	}
	admin := config["admin"].(map[string]any)
	// The identity comes from Caddy's own authority, as no other is on loopback.
	admin["identity"] = map[string]any{"identifiers": []string{"127.0.0.1"}, "issuers": []any{map[string]any{"module": "internal"}}}
	admin["remote"] = map[string]any{"listen": remote, "access_control": []any{
		map[string]any{"public_keys": []string{r.admin.der}},
		map[string]any{"public_keys": []string{r.reader.der}, "permissions": []any{map[string]any{"paths": []string{"/token_sources"}, "methods": []string{"GET"}}}},
	}}
	config["apps"].(map[string]any)["pki"] = map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false}}}
	adapted, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	r.caddy = harness.StartJSON(t, string(adapted), local)
	r.url, r.address = url, "https://"+remote
	r.ca = filepath.Join(r.caddy.Dir, "data", "caddy", "pki", "authorities", "local", "root.crt")
	r.caddy.WaitLog(`"certificate obtained successfully"`)
	return r
}

func TestAPersonAuthorizesACaddyElsewhere(t *testing.T) {
	t.Parallel()
	r := newRemoteDesk(t)
	output, code := r.run(r.as(r.admin, "list")...)
	assertSaid(t, output, code, 0, "crm", "needs_authorization")
	s := r.terminal(r.as(r.admin, "authorize", "crm")...)
	if status, page := r.land(r.provider.Visit(r.awaitURL(s))); status != 200 {
		t.Errorf("the landing page is %d %s", status, page)
	}
	assertEnd(t, s, 0, "Authorized: crm")
	r.assertServed()
	for _, args := range [][]string{{"show", "crm"}, {"refresh", "crm"}, {"revoke", "crm"}} {
		output, code := r.run(r.as(r.admin, args...)...)
		assertSaid(t, output, code, 0, "crm")
	}
	r.assertNeedsPerson()
}

func TestWhoMayOnlyReadIsToldSo(t *testing.T) {
	t.Parallel()
	r := newRemoteDesk(t)
	for _, args := range [][]string{{"list"}, {"show", "crm"}} {
		output, code := r.run(r.as(r.reader, args...)...)
		assertSaid(t, output, code, 0, "crm", "needs_authorization")
	}
	for _, command := range []string{"authorize", "refresh", "revoke"} {
		output, code := r.run(r.as(r.reader, command, "crm")...)
		assertSaid(t, output, code, 1, "does not allow", "not authorized to use this method")
		assertSentences(t, output)
	}
	if n := len(r.provider.Authorizations()) + r.provider.Count(); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
}

func TestWhatIsWrongWithCertificatesIsSaidSo(t *testing.T) {
	t.Parallel()
	r := newRemoteDesk(t)
	plain := strings.TrimPrefix(r.address, "https://")
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args  []string
		words []string
	}{
		"an authority that nobody knows": {[]string{"--address", r.address, "--cert", r.admin.cert, "--key", r.admin.key}, []string{"certificate"}},
		"no certificate of one's own":    {[]string{"--address", r.address, "--ca", r.ca}, []string{"certificate"}},
		"a certificate unknown to Caddy": {r.as(r.none)[0:], []string{"certificate"}},
		"a certificate without its key":  {[]string{"--address", r.address, "--cert", r.admin.cert, "--ca", r.ca}, []string{"--key"}},
		"a key without its certificate":  {[]string{"--address", r.address, "--key", r.admin.key, "--ca", r.ca}, []string{"--cert"}},
		"the key of another certificate": {[]string{"--address", r.address, "--cert", r.admin.cert, "--key", r.none.key, "--ca", r.ca}, []string{"key"}},
		"a file that is not there":       {[]string{"--address", r.address, "--cert", "/none.pem", "--key", r.admin.key, "--ca", r.ca}, []string{"/none.pem"}},
		"an authority that is none":      {[]string{"--address", r.address, "--cert", r.admin.cert, "--key", r.admin.key, "--ca", junk}, []string{junk}},
		"another host":                   {[]string{"--address", strings.Replace(r.address, "127.0.0.1", "localhost", 1), "--cert", r.admin.cert, "--key", r.admin.key, "--ca", r.ca}, []string{"tls"}},
		"without TLS":                    {[]string{"--address", plain}, []string{plain}},
		"certificates without TLS":       {[]string{"--address", r.caddy.Admin, "--cert", r.admin.cert, "--key", r.admin.key}, []string{"https"}},
	} {
		for _, command := range [][]string{{"list"}, {"authorize", "crm"}} {
			output, code := r.run(append(command, c.args...)...)
			t.Logf("%s: %s", name, command)
			assertSaid(t, output, code, 1, c.words...)
			assertSentences(t, output)
		}
	}
}
