package caddy_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// bound is a token endpoint and an API in one, whose tokens are worth something with
// the client certificate alone with which they were asked for (RFC 8705).
type bound struct {
	keys *interopKeys
	url  string

	mu    sync.Mutex        // guards everything below
	owner map[string]string // by token, the thumbprint
	asked []string          // thumbprints of the token requests
}

func newBound(t *testing.T) *bound {
	b := &bound{keys: newInteropKeys(t), owner: make(map[string]string)}
	pool := x509.NewCertPool()
	pool.AddCert(b.keys.ca.Certificate)
	server := httptest.NewUnstartedServer(http.HandlerFunc(b.serve))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, Certificates: []tls.Certificate{b.keys.server.tls()}}
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	b.url = server.URL
	return b
}

func (b *bound) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	with := thumbprint(r.TLS.PeerCertificates[0])
	if r.URL.Path == "/token" {
		b.asked = append(b.asked, with)
		token := "bound-" + rand.Text()
		b.owner[token] = with
		answerJSON(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
		return
	}
	if b.owner[bearerOf(r)] != with {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprint(w, with)
}

func (b *bound) lastAsked() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked[len(b.asked)-1]
}

func (b *bound) newClient() *certificate {
	return b.keys.issue(b.keys.ca, &x509.Certificate{Subject: pkix.Name{CommonName: "crm-client"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

const mutualTLS = "transport http {\n tls_trust_pool file {{dir}}/ca.pem\n tls_client_auth {{dir}}/client.pem {{dir}}/client-key.pem\n}\n"

func (b *bound) source() string {
	return fmt.Sprintf("source crm {\ngrant client_credentials\ntoken_url %s/token\nclient_id %s\nclient_auth tls_client_auth\n%s}\n", b.url, provider.ClientID, mutualTLS)
}

func TestAClientCertificateIsRotatedBetweenRequests(t *testing.T) {
	t.Parallel()
	b := newBound(t)
	text, url := caddyfile(t, b.source(), "inject_token crm "+b.url+" {\n"+mutualTLS+"}")
	first, second := b.newClient(), b.newClient()
	c := harness.Start(t, text, harness.File("ca.pem", b.keys.ca.pem()), harness.File("client.pem", first.pem()), harness.File("client-key.pem", first.keyInPEM(t)))
	get := func() string {
		t.Helper()
		resp, body := harness.Get(t, url)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("answered %d: %s", resp.StatusCode, body)
		}
		return body
	}
	if got := get(); got != thumbprint(first.Certificate) {
		t.Fatal("it was not served with the first certificate")
	}
	c.Write("client.pem", second.pem()) // and the key is still that of the first
	harness.Eventually(t, time.Minute, "the log tells of a half", func() bool {
		return get() == thumbprint(first.Certificate) && strings.Contains(c.Log(), "cannot be read; the last one stays in use")
	})
	c.Write("client-key.pem", second.keyInPEM(t))
	harness.Eventually(t, time.Minute, "the second certificate is used", func() bool { return get() == thumbprint(second.Certificate) })
	if b.lastAsked() != thumbprint(second.Certificate) {
		t.Error("the token is bound to the first certificate")
	}
	c.Write("client-key.pem", "this is no key")
	harness.Eventually(t, time.Minute, "the log tells of a key that cannot be read", func() bool {
		return get() == thumbprint(second.Certificate) && strings.Count(c.Log(), "cannot be read; the last one stays in use") > 1
	})
}

func TestAClientCertificateThatHasEndedIsToldOf(t *testing.T) {
	t.Parallel()
	b := newBound(t)
	ended := b.newClient()
	template := *ended.Certificate
	template.NotBefore, template.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &template, b.keys.ca.Certificate, &ended.key.PublicKey, b.keys.ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ended.Certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	text, _ := caddyfile(t, b.source(), "respond ok")
	c := harness.Start(t, text, harness.File("ca.pem", b.keys.ca.pem()), harness.File("client.pem", ended.pem()), harness.File("client-key.pem", ended.keyInPEM(t)))
	sentence := "our client certificate ended on " + ended.NotAfter.UTC().Format(time.DateTime)
	c.WaitLog(sentence)
	out, code := harness.Run(t, c.Dir, "token-source", "check", "--config", "Caddyfile", "--adapter", "caddyfile")
	if code == 0 || !strings.Contains(out, sentence) {
		t.Errorf("check ends with %d: %s", code, out)
	}
}
