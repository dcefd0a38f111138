package caddy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// authority is a private certificate authority.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "a private authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// sign completes a certificate; that of the authority itself if it has none.
func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func certPEM(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

func keyPEM(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// serveTLS serves a provider's token endpoint with a certificate of the
// authority, to clients that prove themselves as this asks for, and notes who
// they are.
func (a *authority) serveTLS(p *provider.Provider, clients tls.ClientAuthType) (tokenURL string, seen *names) {
	a.t.Helper()
	target, err := url.Parse(p.URL)
	if err != nil {
		a.t.Fatal(err)
	}
	seen = new(names)
	forward := httputil.NewSingleHostReverseProxy(target)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		seen.add(name)
		forward.ServeHTTP(w, r)
	}))
	cert, key := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "provider"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		ClientAuth:   clients, ClientCAs: a.pool(),
	}
	s.StartTLS()
	closeAtEnd(a.t, s)
	return s.URL + "/token", seen
}

// names are noted by servers.
type names struct {
	mu  sync.Mutex // guards all
	all []string
}

func (n *names) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, name)
}

func (n *names) list() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.all)
}

// forwardProxy is one that wants a login, and notes where it is to lead.
func forwardProxy(t *testing.T, user, password string) (address string, seen *names) {
	t.Helper()
	seen = new(names)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		login := &http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
		if u, p, _ := login.BasicAuth(); u != user || p != password {
			seen.add("a stranger")
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			seen.add(r.Method + " " + r.URL.String())
			r.RequestURI = ""
			r.Header.Del("Proxy-Authorization")
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer resp.Body.Close()
			w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
			w.WriteHeader(resp.StatusCode)
			_, _ = io.Copy(w, resp.Body)
			return
		}
		seen.add("CONNECT " + r.Host)
		lead(w, r.Host)
	}))
	closeAtEnd(t, s)
	return strings.TrimPrefix(s.URL, "http://"), seen
}

// TestATokenEndpointIsReachedOverCaddysOwnTransport has a private authority, a
// client certificate and a forward proxy on the way to it.
func TestATokenEndpointIsReachedOverCaddysOwnTransport(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	a := newAuthority(t)
	private, _ := a.serveTLS(p, tls.NoClientCert)
	mutual, clients := a.serveTLS(p, tls.RequireAndVerifyClientCert)
	cert, key := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "legacy-script"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	const password = "password-of-the-proxy"
	proxy, led := forwardProxy(t, "robot", password)

	const trust = "tls_trust_pool file {{dir}}/ca.pem\n"
	const login = "tls_client_auth {{dir}}/client.pem {{dir}}/client.key\n"
	const through = "network_proxy url {env.PROXY}\n"
	var sources, site strings.Builder
	for _, s := range []struct{ name, url, transport string }{
		{"authority", private, trust},
		{"certificate", mutual, trust + login},
		{"plain-proxy", p.TokenURL(), through},
		{"tls-proxy", private, trust + through},
	} {
		fmt.Fprintf(&sources, `source %s {
			grant client_credentials
			token_url %s
			client_id %s
			client_secret {file.{{dir}}/secret}
			transport http {
				%s
			}
		}
		`, s.name, s.url, provider.ClientID, s.transport)
		fmt.Fprintf(&site, "handle /%s {\n inject_token %[1]s %s\n}\n", s.name, p.API)
	}
	text, address := caddyfile(t, sources.String(), site.String())
	harness.Start(t, text, withSecret(provider.ClientSecret), harness.Env("PROXY=http://robot:"+password+"@"+proxy),
		harness.File("ca.pem", certPEM(a.cert)), harness.File("client.pem", certPEM(cert)), harness.File("client.key", keyPEM(t, key)))
	for _, name := range []string{"authority", "certificate", "plain-proxy", "tls-proxy"} {
		if got := ask(t, address+"/"+name); got.status != http.StatusOK {
			t.Errorf("%s: answered %d %q", name, got.status, got.body)
		}
	}
	if got := clients.list(); !slices.Equal(got, []string{"legacy-script"}) {
		t.Errorf("clients with certificates: %q", got)
	}
	want := []string{
		"CONNECT " + strings.TrimSuffix(strings.TrimPrefix(private, "https://"), "/token"),
		"POST " + p.TokenURL(),
	}
	got := led.list()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the forward proxy was to lead to %q, want %q", got, want)
	}
	p.AssertStrict()
}
