package injecttoken

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// upstream stands beneath a Transport in the place of the network.
type upstream func(*http.Request) (*http.Response, error)

func (u upstream) RoundTrip(req *http.Request) (*http.Response, error) { return u(req) }

// issuer is a source whose provider always issues the same token.
type issuer string

func (i issuer) Obtain(context.Context, *tokensource.Token) (*tokensource.Token, error) {
	return &tokensource.Token{AccessToken: string(i), Issued: time.Now(), Lifetime: time.Hour}, nil
}

const testScheme = "test"

// newTestTransport returns a transport as Provision leaves it, with a token
// and without a network.
func newTestTransport(tb testing.TB, t *Transport, up upstream) *Transport {
	tb.Helper()
	r := refresher.New(refresher.Options{})
	detach := r.Attach(&refresher.Environment{Source: issuer("s3cr3t.token"), Log: zap.NewNop()})
	tb.Cleanup(func() { detach(); r.Close(0) })
	if _, err := r.Token(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	in, m := newInjection(t.Headers, t.Query, t.Basic)
	if m != nil {
		tb.Fatal(m)
	}
	t.Source = "crm"
	t.Wait = caddy.Duration(DefaultWait)
	t.injection = in
	t.selection = &selection{always: newUse(t.Source, r)}
	t.log = zap.NewNop()
	t.HTTPTransport.Transport = new(http.Transport)
	t.HTTPTransport.Transport.RegisterProtocol(testScheme, up)
	return t
}

// newTestRequest returns a request as reverse_proxy hands it to a transport.
func newTestRequest(tb testing.TB, method, query string, body io.Reader) *http.Request {
	tb.Helper()
	req := httptest.NewRequest(method, "/path", body)
	req.RequestURI = ""
	req.URL = &url.URL{Scheme: testScheme, Host: "api.example.org", Path: "/path", RawQuery: query}
	ctx := context.WithValue(req.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { return nil }})
	ctx = context.WithValue(ctx, caddyhttp.ExtraLogFieldsCtxKey, new(caddyhttp.ExtraLogFields))
	return req.WithContext(ctx)
}

func ok(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}, nil
}

// callerHeader is what reverse_proxy typically sends.
func callerHeader() http.Header {
	return http.Header{
		"Accept":            {"*/*"},
		"Accept-Encoding":   {"gzip"},
		"User-Agent":        {"legacy/1.0"},
		"X-Forwarded-For":   {"127.0.0.1"},
		"X-Forwarded-Proto": {"http"},
		"X-Forwarded-Host":  {"proxy.example.org"},
		"Via":               {"1.1 Caddy"},
	}
}

// setHeaderOnCopy is the least that a transport can do which sets a header and
// leaves the request of its caller alone.
type setHeaderOnCopy struct{ beneath http.RoundTripper }

func (s setHeaderOnCopy) RoundTrip(req *http.Request) (*http.Response, error) {
	out := new(http.Request)
	*out = *req
	out.URL = new(url.URL)
	*out.URL = *req.URL
	out.Header = req.Header.Clone()
	out.Header.Set("Authorization", "Bearer s3cr3t.token")
	return s.beneath.RoundTrip(out)
}

// BenchmarkRoundTrip measures what injection adds to a request, against a
// transport that sets a static header on a copy of the request.
func BenchmarkRoundTrip(b *testing.B) {
	t := newTestTransport(b, new(Transport), ok)
	req := newTestRequest(b, http.MethodGet, "a=1&b=2", nil)
	req.Header = callerHeader()
	for _, contender := range []struct {
		name string
		http.RoundTripper
	}{
		{"static", setHeaderOnCopy{t.HTTPTransport.Transport}},
		{"inject_token", t},
	} {
		b.Run(contender.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := contender.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestInjectionAllocatesNoMoreThanAHeaderOnACopiedRequest(t *testing.T) {
	transport := newTestTransport(t, new(Transport), ok)
	req := newTestRequest(t, http.MethodGet, "a=1&b=2", nil)
	req.Header = callerHeader()
	allocations := func(rt http.RoundTripper) float64 {
		return testing.AllocsPerRun(200, func() {
			if _, err := rt.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		})
	}
	static := allocations(setHeaderOnCopy{transport.HTTPTransport.Transport})
	ours := allocations(transport)
	t.Logf("allocations of a request: %v with a static header on a copy, %v with a token", static, ours)
	if ours > static {
		t.Errorf("injection allocates %v times, a static header on a copied request %v times", ours, static)
	}
}

func TestTheRequestOfReverseProxyStaysAsItIs(t *testing.T) {
	var sent *http.Request
	transport := newTestTransport(t, &Transport{Query: []string{"access_token"}, Headers: []HeaderInjection{{Field: "X-Api-Key"}}},
		func(req *http.Request) (*http.Response, error) { sent = req; return ok(req) })
	req := newTestRequest(t, http.MethodGet, "a=1&access_token=own", nil)
	req.Header = callerHeader()
	req.Header.Set("X-Api-Key", "own")
	if _, err := transport.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	if got := sent.Header.Get("X-Api-Key"); got != "s3cr3t.token" {
		t.Errorf("the upstream got X-Api-Key %q", got)
	}
	if got := sent.URL.RawQuery; got != "a=1&access_token=s3cr3t.token" {
		t.Errorf("the upstream got the query %q", got)
	}
	if req.Header.Get("X-Api-Key") != "own" || req.URL.RawQuery != "a=1&access_token=own" {
		t.Errorf("the request was changed: %v %v", req.Header, req.URL)
	}
}

func TestARefusalIsReportedUnlessAScopeIsMissing(t *testing.T) {
	for challenge, reported := range map[string]bool{
		`Bearer error="invalid_token"`:      true,
		"":                                  true,
		`Bearer error="insufficient_scope"`: false,
	} {
		transport := newTestTransport(t, new(Transport), func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {challenge}}, Body: http.NoBody}, nil
		})
		before := transport.selection.always.refresher.Current()
		req := newTestRequest(t, http.MethodGet, "", nil)
		if _, err := transport.RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(5 * time.Second)
		for reported && transport.selection.always.refresher.Current() == before && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if renewed := transport.selection.always.refresher.Current() != before; renewed != reported {
			t.Errorf("challenge %q: renewed is %v, want %v", challenge, renewed, reported)
		}
		repl := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		outcome, _ := repl.GetString("http.inject_token.outcome")
		if want := map[bool]string{true: refused, false: injected}[reported]; outcome != want {
			t.Errorf("challenge %q: outcome %s, want %s", challenge, outcome, want)
		}
	}
}

func TestTraceIsNeverSent(t *testing.T) {
	transport := newTestTransport(t, new(Transport), func(*http.Request) (*http.Response, error) {
		t.Error("it was sent")
		return ok(nil)
	})
	resp, err := transport.RoundTrip(newTestRequest(t, http.MethodTrace, "", nil))
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") == "" {
		t.Errorf("answered %v", resp)
	}
}

func TestACallersTrailerNamedAsOurFieldIsDropped(t *testing.T) {
	var trailer http.Header
	transport := newTestTransport(t, new(Transport), func(req *http.Request) (*http.Response, error) {
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return nil, err
		}
		trailer = req.Trailer
		return ok(req)
	})
	req := newTestRequest(t, http.MethodPost, "", nil)
	req.Trailer = http.Header{"Authorization": nil, "X-Checksum": nil}
	req.Body = trailerAtEnd{strings.NewReader("body"), req.Trailer}
	if _, err := transport.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	if _, there := trailer["Authorization"]; there || trailer.Get("X-Checksum") != "sum" {
		t.Errorf("the upstream got the trailer %v", trailer)
	}
}

// trailerAtEnd fills the trailer when the body has ended, as reverse_proxy
// does.
type trailerAtEnd struct {
	*strings.Reader
	trailer http.Header
}

func (b trailerAtEnd) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.trailer["Authorization"] = []string{"Bearer caller"}
		b.trailer["X-Checksum"] = []string{"sum"}
	}
	return n, err
}

func (trailerAtEnd) Close() error { return nil }

func TestARequestTargetThatNamesAHostIsNotSent(t *testing.T) {
	transport := newTestTransport(t, new(Transport), func(*http.Request) (*http.Response, error) {
		t.Error("it was sent")
		return ok(nil)
	})
	req := newTestRequest(t, http.MethodGet, "", nil)
	req.URL.Opaque = "http://elsewhere.example/"
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("answered %d", resp.StatusCode)
	}
}

func TestANumberSignDoesNotHideTheToken(t *testing.T) {
	var query string
	transport := newTestTransport(t, &Transport{Query: []string{"key"}}, func(req *http.Request) (*http.Response, error) {
		query = req.URL.RawQuery
		return ok(req)
	})
	if _, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "a=1#f", nil)); err != nil {
		t.Fatal(err)
	}
	if query != "a=1%23f&key=s3cr3t.token" {
		t.Errorf("sent the query %q", query)
	}
}

func TestAForwardProxyTakesTheTokenToTheUpstreamAlone(t *testing.T) {
	var host string
	transport := newTestTransport(t, new(Transport), nil)
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { host = r.URL.Host + " " + r.Host }))
	defer proxy.Close()
	address, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport.HTTPTransport.Transport.Proxy = http.ProxyURL(address)
	req := newTestRequest(t, http.MethodGet, "", nil)
	req.URL.Scheme, req.Host = "", "evil.example"
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if host != "api.example.org api.example.org" {
		t.Errorf("the proxy was asked for %s", host)
	}
}

func TestAnUpstreamsBrokenAnswerDoesNotShowTheToken(t *testing.T) {
	broken := errors.New(`malformed MIME header: "Bearer s3cr3t.token"`)
	transport := newTestTransport(t, new(Transport), func(*http.Request) (*http.Response, error) { return nil, broken })
	_, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "", nil))
	if !errors.Is(err, broken) || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("the error is %v", err)
	}

	transport = newTestTransport(t, new(Transport), func(*http.Request) (*http.Response, error) {
		resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Trailer: http.Header{"X-Echo": {"s3cr3t.token"}}}
		resp.Body = io.NopCloser(iotest.ErrReader(broken))
		return resp, nil
	})
	resp, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, broken) || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("the error is %v", err)
	}
	if got := resp.Trailer.Get("X-Echo"); got != "[redacted]" {
		t.Errorf("the trailer is %q", got)
	}
}

// refuser is a source whose provider refuses the grant.
type refuser struct{}

func (refuser) Obtain(context.Context, *tokensource.Token) (*tokensource.Token, error) {
	return nil, &tokensource.Error{Code: "invalid_grant", StatusCode: http.StatusBadRequest, Permanent: true}
}

// closable is a body that cannot be read once it is closed, as a server's is.
type closable struct {
	io.Reader
	closed bool
}

func (c *closable) Read(p []byte) (int, error) {
	if c.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return c.Reader.Read(p)
}

func (c *closable) Close() error {
	c.closed = true
	return nil
}

func TestARequestThatPassesWithoutATokenHasItsBodyWhateverTheProviderSaid(t *testing.T) {
	var arrived string
	transport := newTestTransport(t, &Transport{Unavailable: "pass"}, func(req *http.Request) (*http.Response, error) {
		text, err := io.ReadAll(req.Body)
		arrived = string(text)
		if err != nil {
			t.Errorf("the body cannot be read: %v", err)
		}
		return ok(req)
	})
	refused := refresher.New(refresher.Options{})
	defer refused.Attach(&refresher.Environment{Source: refuser{}, Log: zap.NewNop()})()
	defer refused.Close(0)
	transport.selection.always = newUse("crm", refused)
	resp, err := transport.RoundTrip(newTestRequest(t, http.MethodPost, "", &closable{Reader: strings.NewReader("of the caller")}))
	if err != nil || resp.StatusCode != http.StatusOK || arrived != "of the caller" {
		t.Errorf("arrived %q, answered %v %v", arrived, resp, err)
	}
}

func TestACallersTokenIsNotTakenToASourceThatExchangesNoneAnyMore(t *testing.T) {
	ended := refresher.New(refresher.Options{PerSubject: true})
	before := &use{name: "crm", identity: identityOf("crm", &Source{Grant: "token_exchange", SubjectToken: "caller"}), refresher: ended}
	caller := before.ofCaller("theirs")
	ended.Close(0)
	for _, now := range []*Source{
		{Grant: "token_exchange", SubjectToken: "{file./subject}"},
		{Grant: "token_exchange", SubjectToken: "caller"},
	} {
		next := refresher.New(refresher.Options{PerSubject: now.takesCallers()})
		running := &runningSource{name: "crm", config: now, refresher: next}
		runningSources.add(running)
		if heir := caller.successor(); (heir != nil) != now.takesCallers() || heir != nil && heir.caller != "theirs" {
			t.Errorf("subject_token %s: the successor is %+v", now.SubjectToken, heir)
		}
		runningSources.remove(running)
		next.Close(0)
	}
}
