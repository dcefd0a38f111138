package caddy_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// farAway is a network in which every host is the provider: a forward proxy
// leads all to it, by https with certificates for all of them, and by plain
// http. It notes what was asked of whom.
type farAway struct {
	proxy string
	ca    string
	went  *names
}

const farIssuer = "https://issuer.example.org"

func newFarAway(t *testing.T, p *provider.Provider) *farAway {
	t.Helper()
	target, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	f := &farAway{went: new(names)}
	forward := httputil.NewSingleHostReverseProxy(target)
	authority := newAuthority(t)
	cert, key := authority.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "everybody"},
		DNSNames:    []string{"issuer.example.org", "other.example.org", "localhost", "sub.localhost", "localhost."},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 1, 2, 3), net.IPv6loopback, net.IPv4(169, 254, 169, 254), net.ParseIP("fe80::1"), net.IPv4zero, net.IPv6unspecified},
	})
	f.ca = certPEM(authority.cert)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.went.add("https://" + r.Host + r.URL.Path)
		forward.ServeHTTP(w, r)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
	server.StartTLS()
	closeAtEnd(t, server)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			f.went.add(r.URL.Scheme + "://" + r.URL.Host + r.URL.Path)
			forward.ServeHTTP(w, r)
			return
		}
		lead(w, server.Listener.Addr().String())
	}))
	closeAtEnd(t, proxy)
	f.proxy = proxy.URL
	return f
}

// lead joins the client of a CONNECT and an address.
func lead(w http.ResponseWriter, address string) {
	there, err := net.Dial("tcp", address)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer there.Close()
	here, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer here.Close()
	_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(there, here)
		there.Close()
	}()
	_, _ = io.Copy(here, there)
}

// newFarConsent is a source whose provider is far away, and found by its
// metadata.
func newFarConsent(t *testing.T, grant string, metadata provider.Metadata, options ...string) (*consent, *farAway) {
	t.Helper()
	a := newConsent(t, nil)
	metadata.Base, metadata.OpenID = farIssuer, true
	a.p.Announce(metadata)
	f := newFarAway(t, a.p)
	a.grant, a.endpoints = grant, "issuer "+farIssuer
	a.options = "timeout 3s\n transport http {\n tls_trust_pool file {{dir}}/ca.pem\n network_proxy url " + f.proxy + "\n}\n" + strings.Join(options, "\n")
	a.start(harness.File("ca.pem", f.ca))
	return a, f
}

// near is the address of a far page, as a person who is there has it.
func (a *consent) near(begun consentRequest) consentRequest {
	begun.URL = strings.Replace(begun.URL, farIssuer, a.p.URL, 1)
	return begun
}

// TestAProviderFarAwayIsFoundByItsMetadata is what the attacks of this file are
// made on: without them all works, and each endpoint is where it was announced.
func TestAProviderFarAwayIsFoundByItsMetadata(t *testing.T) {
	t.Parallel()
	a, f := newFarConsent(t, "", provider.Metadata{Change: func(document map[string]any) {
		document["token_endpoint"] = "https://other.example.org/token" // as Google has it
	}})
	begun := a.begin()
	if !strings.HasPrefix(begun.URL, farIssuer+"/authorize?") {
		t.Fatalf("the authorization URL is %s", begun.URL)
	}
	a.assertLanded(a.land(a.agree(a.near(begun))))
	a.assertServes("after the landing")
	if got := a.admin(http.MethodPost, "/token_sources/crm/revoke", ""); got.status != http.StatusOK || len(a.p.Revocations()) == 0 {
		t.Errorf("revoked: %d %s", got.status, got.body)
	}
	want := []string{farIssuer + "/.well-known/openid-configuration", "https://other.example.org/token", farIssuer + "/revoke"}
	if got := slices.Compact(f.went.list()); !slices.Equal(got, want) {
		t.Errorf("asked were %q, want %q", got, want)
	}
	a.p.AssertStrict()
}

// spoiled are addresses that metadata must not lead to, from an issuer that is
// not on loopback.
var spoiled = []string{
	"http://issuer.example.org/token", "https://127.0.0.1/token", "https://127.0.0.1:8443/token", "https://127.1.2.3/token", "https://localhost/token",
	"https://LOCALHOST/token", "https://localhost./token", "https://sub.localhost/token", "https://[::1]/token", "https://[::ffff:127.0.0.1]/token", "https://0.0.0.0/token", "https://[::]/token",
	"https://169.254.169.254/latest/meta-data", "https://[fe80::1]/token", "http://127.0.0.1/token", "HTTP://issuer.example.org/token",
	"ftp://issuer.example.org/token", "file:///etc/passwd", "javascript:alert(1)", "data:text/html,x", "/token", "//issuer.example.org/token", "issuer.example.org/token",
	"https://", "https:///token", "https://user:password@issuer.example.org/token", "https://issuer.example.org/token#fragment", "https://issuer.example.org/to ken", "https://issuer.example.org/\r\nX: y", "",
}

// TestMetadataLeadsNowhereElse announces endpoints where none may be: nobody is
// sent there, and nothing is.
func TestMetadataLeadsNowhereElse(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"authorization_endpoint", "token_endpoint", "revocation_endpoint"} {
		t.Run(endpoint, func(t *testing.T) {
			t.Parallel()
			metadata := provider.Metadata{}
			a, f := newFarConsent(t, "", metadata)
			for _, address := range spoiled {
				a.spoilEndpoint(f, endpoint, address)
			}
			for _, value := range []any{7, true, []string{farIssuer + "/token"}, map[string]any{"url": farIssuer}} {
				a.spoilEndpoint(f, endpoint, value)
			}
			a.assertNeedsPerson("after all this")
			// What was spoiled is asked for again when it is mended.
			a.p.Announce(provider.Metadata{Base: farIssuer, OpenID: true})
			a.c.Eventually(30*time.Second, "it begins with metadata that is mended", func() bool {
				got, _ := a.tryToBegin()
				return got.status == http.StatusOK
			})
		})
	}
}

// spoilEndpoint announces an endpoint, begins an authorization and, if that is
// possible, goes on with it.
func (a *consent) spoilEndpoint(f *farAway, endpoint string, address any) {
	a.t.Helper()
	a.p.Announce(provider.Metadata{Base: farIssuer, OpenID: true, Change: func(document map[string]any) { document[endpoint] = address }})
	if endpoint == "revocation_endpoint" {
		// Where the rest is good metadata is kept: another configuration asks again.
		a.moreOptions = "default_lifetime " + itoa(1000+len(f.went.list())) + "s"
		a.reload()
	}
	asked := len(f.went.list())
	got, begun := a.tryToBegin()
	if got.status == http.StatusOK && (endpoint != "revocation_endpoint" || !strings.HasPrefix(begun.URL, farIssuer+"/authorize?")) {
		a.t.Errorf("%s %v: begun: %s", endpoint, address, begun.URL)
	}
	if got.status == http.StatusOK { // of a revocation endpoint alone
		if landed := a.land(a.agree(a.near(begun))); landed.status == http.StatusOK {
			a.admin(http.MethodPost, "/token_sources/crm/revoke", "")
		}
	} else if got.status != http.StatusBadGateway || got.body == "" {
		a.t.Errorf("%s %v: begun: %d %s", endpoint, address, got.status, got.body)
	}
	for _, went := range f.went.list()[asked:] {
		if !strings.HasPrefix(went, farIssuer+"/.well-known/") && (got.status != http.StatusOK || went != farIssuer+"/token") {
			a.t.Errorf("%s %v: asked was %s", endpoint, address, went)
		}
	}
}

// TestAnIssuerByHTTPSLeadsToNoPlainHTTP allows plain http, for the sake of another
// address: what an issuer says by https must lead to https all the same.
func TestAnIssuerByHTTPSLeadsToNoPlainHTTP(t *testing.T) {
	t.Parallel()
	a, f := newFarConsent(t, "", provider.Metadata{}, "insecure_http")
	for _, endpoint := range []string{"authorization_endpoint", "token_endpoint", "revocation_endpoint"} {
		a.spoilEndpoint(f, endpoint, "http://issuer.example.org/token")
		a.spoilEndpoint(f, endpoint, "http://127.0.0.1/token")
	}
}

// TestMetadataLeadsNoDeviceElsewhere does the same with device_code.
func TestMetadataLeadsNoDeviceElsewhere(t *testing.T) {
	t.Parallel()
	a, f := newFarConsent(t, "device_code", provider.Metadata{})
	for _, address := range spoiled {
		a.spoilEndpoint(f, "device_authorization_endpoint", address)
	}
	if codes := a.p.UserCodes(); len(codes) > 0 {
		t.Errorf("%d authorizations have begun", len(codes))
	}
}

// TestMetadataOfAnotherIssuerIsNotUsed announces another issuer than the one
// that is configured, if only by a sign.
func TestMetadataOfAnotherIssuerIsNotUsed(t *testing.T) {
	t.Parallel()
	a, f := newFarConsent(t, "", provider.Metadata{})
	for _, issuer := range []any{"https://evil.example.org", farIssuer + "/", "https://ISSUER.example.org", farIssuer + ":443", "http://issuer.example.org", " " + farIssuer, "", nil, []string{farIssuer}} {
		a.spoilEndpoint(f, "issuer", issuer)
	}
}

// TestMetadataThatIsNoneIsAnErrorInTime has metadata that redirects, hangs, has
// no end or is something else.
func TestMetadataThatIsNoneIsAnErrorInTime(t *testing.T) {
	t.Parallel()
	a, f := newFarConsent(t, "", provider.Metadata{})
	text := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	good := fmt.Sprintf(`{"issuer":%q,"authorization_endpoint":%q,"token_endpoint":%q}`, farIssuer, farIssuer+"/authorize", farIssuer+"/token")
	redirect := func(target string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", target)
			w.WriteHeader(http.StatusFound)
			_, _ = io.WriteString(w, good)
		}
	}
	var sent atomic.Int64
	for name, answer := range map[string]http.HandlerFunc{
		"a page":                 text(200, "<!doctype html><title>Welcome</title>"),
		"nothing":                text(200, ""),
		"a list":                 text(200, "["+good+"]"),
		"cut off":                text(200, good[:len(good)-1]),
		"something behind":       text(200, good+"<script>"),
		"500":                    text(500, good),
		"404 of both":            text(404, good),
		"401":                    text(401, good),
		"a redirect to loopback": redirect("http://127.0.0.1:1/x"),
		"a redirect elsewhere":   redirect("https://other.example.org/metadata"),
		"a redirect to itself":   redirect(farIssuer + "/.well-known/openid-configuration"),
		"no end": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"issuer":"`)
			for i := 0; i < 1<<16; i++ { // 64 MiB
				n, err := w.Write(make([]byte, 1<<10))
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		},
		"a hang":                 func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"a hang in the document": func(w http.ResponseWriter, r *http.Request) { stallAfter(w, r, good[:20]) },
		"deep":                   text(200, strings.Repeat(`{"a":`, 200_000)),
	} {
		a.p.Announce(provider.Metadata{Base: farIssuer, OpenID: true, Answer: answer})
		asked, began := len(f.went.list()), time.Now()
		got, begun := a.tryToBegin()
		if got.status != http.StatusBadGateway || begun.URL != "" || strings.Contains(got.body, "<script") {
			t.Errorf("%s: begun: %d %s", name, got.status, got.body)
		}
		if took := time.Since(began); took > 15*time.Second { // the source's timeout is three, for each place
			t.Errorf("%s: it took %v", name, took)
		}
		for _, went := range f.went.list()[asked:] {
			if !strings.HasPrefix(went, farIssuer+"/.well-known/") {
				t.Errorf("%s: asked was %s", name, went)
			}
		}
		if n := len(f.went.list()) - asked; n > 2 {
			t.Errorf("%s: asked was %d times", name, n)
		}
	}
	if n := sent.Load(); n == 0 || n > 32<<20 { // what is on the way is of the network
		t.Errorf("of metadata without end %d bytes were taken", n)
	}
	a.p.Announce(provider.Metadata{Base: farIssuer, OpenID: true})
	a.assertLanded(a.land(a.agree(a.near(a.begin()))))
}

// stallAfter sends the beginning of an answer and no more.
func stallAfter(w http.ResponseWriter, r *http.Request, beginning string) {
	_, _ = io.WriteString(w, beginning)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// TestMetadataIsFoundAtBothPlaces has an issuer with a path, whose metadata is
// at the one place, at the other, and at both.
func TestMetadataIsFoundAtBothPlaces(t *testing.T) {
	t.Parallel()
	for name, metadata := range map[string]provider.Metadata{
		"OpenID": {OpenID: true, Path: "/tenant/7"}, "OAuth": {OAuth: true, Path: "/tenant/7"}, "both": {OpenID: true, OAuth: true, Path: "/tenant/7"},
		"OpenID without a path": {OpenID: true}, "OAuth without a path": {OAuth: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newConsent(t, nil)
			a.p.Announce(metadata)
			a.endpoints = "issuer " + a.p.Issuer()
			a.start()
			if got := a.p.Discovered(); len(got) > 0 {
				t.Errorf("before it was needed, asked for were %q", got)
			}
			a.authorize()
			a.authorize()
			a.assertServes(name)
			places := 1
			if !metadata.OpenID {
				places = 2
			}
			if got := a.p.Discovered(); len(got) != places {
				t.Errorf("asked for were %q", got)
			}
			// The endpoint is known with the token.
			a.c.Stop()
			a.p.Announce(provider.Metadata{})
			a.again()
			a.c.Eventually(20*time.Second, "it serves after a restart", a.serves)
			a.p.Revoke()
			a.assertServes("renewed without metadata")
			if got := a.p.Discovered(); len(got) != places {
				t.Errorf("asked for were %q after a restart", got)
			}
			a.p.AssertStrict()
		})
	}
}

// TestADeviceIsSentToNoHarmfulAddress has a provider whose device endpoint gives
// addresses and codes that do harm in a browser or on a terminal.
func TestADeviceIsSentToNoHarmfulAddress(t *testing.T) {
	t.Parallel()
	a := newConsent(t, nil)
	a.grant = "device_code"
	answer := make(chan string, 1)
	rogue := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, <-answer)
	}))
	closeAtEnd(t, rogue)
	a.endpoints = "device_url " + rogue.URL + "/device\n token_url " + a.p.TokenURL()
	a.start()
	for name, fields := range map[string]map[string]any{
		"a script as address":          {"verification_uri": "javascript:alert(1)"},
		"a file as address":            {"verification_uri": "file:///etc/passwd"},
		"an option as address":         {"verification_uri": "--help"},
		"a script as complete address": {"verification_uri_complete": "javascript:alert(1)"},
		"a file as complete address":   {"verification_uri_complete": "file:///etc/passwd"},
		"a code for terminals":         {"user_code": "AB\x1b]0;owned\x07CD"},
		"a code with breaks":           {"user_code": "AB\r\nCD"},
		"an address for terminals":     {"verification_uri": "https://login.example.org/\x1b[2J"},
		"a code without end":           {"user_code": strings.Repeat("A", 100_000)},
		"no code":                      {"user_code": ""},
		"no device code":               {"device_code": ""},
		"no address":                   {"verification_uri": nil},
	} {
		document := map[string]any{"device_code": "device-code-0123456789", "user_code": "ABCD-EFGH", "verification_uri": "https://login.example.org/device", "expires_in": 600, "interval": 5}
		for field, value := range fields {
			document[field] = value
		}
		answer <- string(mustJSON(document))
		got, begun := a.tryToBegin()
		all := begun.UserCode + begun.VerificationURI + begun.VerificationURIComplete
		if strings.ContainsAny(all, "\x1b\r\n\x07") || len(all) > 10_000 || strings.Contains(all, "javascript:") || strings.Contains(all, "file:") || strings.HasPrefix(begun.VerificationURI, "-") {
			t.Errorf("%s: begun: %d %.500s", name, got.status, got.body)
		}
		if got.status == http.StatusOK && !strings.Contains(name, "complete") || got.status != http.StatusOK && got.status != http.StatusBadGateway {
			t.Errorf("%s: begun: %d %.500s", name, got.status, got.body)
		}
	}
}
