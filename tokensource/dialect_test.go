package tokensource

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// rawServer answers each connection by itself, and returns its address.
func rawServer(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

// heard reads the beginning of a request.
func heard(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }

func tlsServer(t *testing.T, change func(*tls.Config)) *httptest.Server {
	s := httptest.NewUnstartedServer(issue("at", ""))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = new(tls.Config)
	change(s.TLS)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// trusting returns a transport that trusts s, and connects to it whatever the
// name.
func trusting(t *testing.T, s *httptest.Server, change func(*tls.Config)) *http.Transport {
	tr := transport(t)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	tr.TLSClientConfig = &tls.Config{RootCAs: roots}
	change(tr.TLSClientConfig)
	tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
	}
	return tr
}

func asIs(*tls.Config) {}

// closedPort returns an address at which nobody listens, nor will: it is that of
// a client.
func closedPort(t *testing.T) string {
	t.Helper()
	c, err := net.Dial("tcp", rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.LocalAddr().String()
}

// unsent are failures without an answer: where the URL points, over which
// transport, and what the operator reads behind the host.
func unsent(t *testing.T) map[string]struct {
	url       string
	transport http.RoundTripper
	reason    string
} {
	type failure = struct {
		url       string
		transport http.RoundTripper
		reason    string
	}
	closed := closedPort(t)
	deaf := transport(t)
	deaf.DialContext = (&net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no name server")
	}}}).DialContext
	proxied := transport(t)
	proxied.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: closed})
	impatient := transport(t)
	impatient.ResponseHeaderTimeout = 20 * time.Millisecond
	impatient.TLSHandshakeTimeout = 20 * time.Millisecond
	secure := tlsServer(t, asIs)
	modern := tlsServer(t, func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 })
	choosy := tlsServer(t, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
	plain := newProvider(t, issue("at", ""))
	silent := rawServer(t, func(c net.Conn) { heard(c); _, _ = io.Copy(io.Discard, c) })

	const (
		closedEarly = "the connection was closed before an answer came"
		unknown     = "the token request could not be sent, or the answer is not HTTP"
	)
	return map[string]failure{
		"connection refused":           {"http://" + closed, transport(t), "connection refused"},
		"a proxy that refuses":         {"https://auth.example.org", proxied, "the forward proxy: connection refused"},
		"a name that does not resolve": {"https://nowhere.example.org", deaf, "the name does not resolve"},
		"closed":                       {"http://" + rawServer(t, heard), transport(t), closedEarly},
		"reset": {"http://" + rawServer(t, func(c net.Conn) {
			heard(c)
			_ = c.(*net.TCPConn).SetLinger(0)
		}), transport(t), closedEarly},
		"closed within the header": {"http://" + rawServer(t, func(c net.Conn) {
			heard(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-")
		}), transport(t), unknown},
		"no HTTP": {"http://" + rawServer(t, func(c net.Conn) {
			heard(c)
			_, _ = io.WriteString(c, "SSH-2.0-canary\r\n")
		}), transport(t), unknown},
		"an unknown authority":         {secure.URL, trusting(t, secure, func(c *tls.Config) { c.RootCAs = x509.NewCertPool() }), "its certificate is signed by an authority that is not trusted here"},
		"a certificate of another":     {"https://auth.example.org", trusting(t, secure, asIs), "its certificate is for another name"},
		"a certificate that has ended": {"https://127.0.0.1", trusting(t, secure, func(c *tls.Config) { c.Time = func() time.Time { return time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC) } }), "its certificate is not valid"},
		"plain http on an https port":  {"https://" + strings.TrimPrefix(plain.URL, "http://"), transport(t), "it does not speak TLS"},
		"no TLS": {"https://" + rawServer(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "SSH-2.0-canary\r\n")
			heard(c)
		}), transport(t), "it does not speak TLS"},
		"another version of TLS":     {"https://127.0.0.1", trusting(t, modern, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), "remote error: tls: protocol version not supported"},
		"a client certificate":       {"https://127.0.0.1", trusting(t, choosy, asIs), "remote error: tls: certificate required"},
		"a timeout of the transport": {"http://" + silent, impatient, "no complete answer in time"},
		"a handshake that hangs":     {"https://" + silent, impatient, "no connection in time"},
	}
}

func TestEachFailureIsToldInAnOperatorsWords(t *testing.T) {
	t.Parallel()
	for name, f := range unsent(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Config{
				Grant: "password", ClientID: "c", ClientSecret: "canary-1", Username: "u", Password: "canary-2",
				TokenURL: f.url + "/canary/token?canary=1", Transport: f.transport,
			}
			token, failure := obtain(t, c, nil)
			e := mustFail(t, token, failure)
			at, err := url.Parse(f.url)
			if err != nil {
				t.Fatal(err)
			}
			if want := at.Host + ": " + f.reason; e.Error() != want {
				t.Errorf("got %q, want %q", e, want)
			}
			if e.Permanent || e.RetryAfter != 0 || e.StatusCode != 0 || e.Code != "" {
				t.Errorf("got %+v, want a passing error without an answer", describe(e))
			}
			if text := everyText(e); strings.Contains(text, "canary") || strings.Contains(text, "/token") {
				t.Errorf("shows the URL or a secret: %s", text)
			}
		})
	}
}

// TestAnUnknownFailureDoesNotShowItsText has a transport fail in a way that
// nobody foresaw.
func TestAnUnknownFailureDoesNotShowItsText(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{
		errors.New("canary"), fmt.Errorf("https://canary.test/?x: %w", io.ErrNoProgress), &url.Error{Op: "Post", URL: "https://canary.test/", Err: errors.New("canary")},
	} {
		c := Config{Grant: "client_credentials", ClientID: "c", TokenURL: "https://[2001:db8::1]:8443/canary", Transport: roundTripper(
			func(*http.Request) (*http.Response, error) { return nil, cause })}
		token, failure := obtain(t, c, nil)
		const want = "[2001:db8::1]:8443: the token request could not be sent, or the answer is not HTTP"
		if e := mustFail(t, token, failure); e.Error() != want || strings.Contains(everyText(e), "canary") {
			t.Errorf("got %q, want %q", e, want)
		}
	}
}

func TestAnAnswerThatIsNoneIsToldWithItsStatus(t *testing.T) {
	t.Parallel()
	secure := tlsServer(t, asIs)
	serve := func(h http.HandlerFunc) string { return newProvider(t, h).URL }
	for name, test := range map[string]struct {
		url, want string
		wait      time.Duration
	}{
		"http on a TLS port": {"http://" + secure.Listener.Addr().String(), "the answer is neither JSON nor a form, HTTP status 400", 0},
		"HTML":               {serve(reply(200, "<!doctype html><p>canary")), "the answer is HTML, not JSON, HTTP status 200", 0},
		"HTML of a gateway":  {serve(reply(502, "<html>canary</html>", "Retry-After", "3")), "the answer is HTML, not JSON, HTTP status 502", 3 * time.Second},
		"empty":              {serve(reply(200, "")), "the answer is empty, HTTP status 200", 0},
		"oversize": {serve(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"canary","x":"`)
			for range 2 << 10 {
				_, _ = w.Write(make([]byte, 1<<10))
			}
		}), "the answer is larger than 1 MiB, HTTP status 200", 0},
		"endless": {serve(func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}), "the answer is larger than 1 MiB, HTTP status 200", 0},
		"broken off": {serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"access_token":"canary"}`)
		}), "the answer did not come to its end, HTTP status 200", 0},
		"redirect": {serve(reply(302, "", "Location", "https://login.example.org:8443/canary?secret=canary")),
			"a redirect to login.example.org:8443, which is not followed; write the final URL as token_url, HTTP status 302", 0},
		"redirect with a user": {serve(reply(307, "", "Location", "https://canary:canary@login.example.org/")),
			"a redirect to login.example.org, which is not followed; write the final URL as token_url, HTTP status 307", 0},
		"redirect on the host": {serve(reply(308, "", "Location", "/canary")),
			"a redirect to another place on the same host, which is not followed; write the final URL as token_url, HTTP status 308", 0},
		"redirect nowhere": {serve(reply(303, "")), "a redirect without a usable Location, HTTP status 303", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Config{Grant: "client_credentials", ClientID: "c", ClientSecret: "s", TokenURL: test.url + "/canary?canary=1"}
			token, failure := obtain(t, c, nil)
			e := mustFail(t, token, failure)
			if e.Error() != test.want || e.RetryAfter != test.wait || e.Permanent {
				t.Errorf("got %q (%v, permanent %v), want %q (%v)", e, e.RetryAfter, e.Permanent, test.want, test.wait)
			}
			if text := everyText(e); strings.Contains(text, "canary") {
				t.Errorf("shows the answer: %s", text)
			}
		})
	}
}

func TestAProviderThatIsTooSlowIsGivenUpWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	hang := func(r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(time.Minute):
		}
	}
	for name, serve := range map[string]http.HandlerFunc{
		"hanging header": func(_ http.ResponseWriter, r *http.Request) { hang(r) },
		"hanging body": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"at",`)
			w.(http.Flusher).Flush()
			hang(r)
		},
		"a refusal whose body hangs": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
			w.(http.Flusher).Flush()
			hang(r)
		},
		"a byte now and then": func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < 6000 && r.Context().Err() == nil; i++ {
				_, _ = io.WriteString(w, " ")
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, serve)
			c := client(p)
			login(&c)
			s := newSource(t, c)
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			started := time.Now()
			token, failure := askWithin(t, ctx, s, withRefresh("rt"))
			e := mustFail(t, token, failure)
			if took := time.Since(started); ctx.Err() == nil || took > 20*time.Second {
				t.Errorf("gave up after %v", took)
			}
			want := strings.TrimPrefix(p.URL, "http://") + ": no complete answer in time"
			if e.Error() != want || e.Permanent || e.RetryAfter != 0 || e.StatusCode != 0 {
				t.Errorf("got %q, %+v, want %q", e, describe(e), want)
			}
			if n := len(p.arrived()); n > 1 {
				t.Errorf("%d requests", n)
			}

			// Cancelled by whoever asked, it says so.
			ctx, cancel = context.WithCancel(context.Background())
			time.AfterFunc(50*time.Millisecond, cancel)
			token, failure = askWithin(t, ctx, s, nil)
			if e := mustFail(t, token, failure); !strings.HasSuffix(e.Error(), ": the token request was cancelled") {
				t.Errorf("cancelled: %q", e)
			}
		})
	}
}

func TestTheBodyOfEveryAnswerIsClosed(t *testing.T) {
	t.Parallel()
	for _, answer := range []*http.Response{
		madeUp(200, `{"access_token":"at"}`), madeUp(400, `{"error":"invalid_grant"}`), madeUp(302, ""), madeUp(500, strings.Repeat("x", 2<<20)), madeUp(200, ""),
	} {
		body := &closer{Reader: answer.Body}
		answer.Body = body
		c := Config{Grant: "client_credentials", ClientID: "c", TokenURL: "https://x.test/", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return answer, nil
		})}
		_, _ = obtain(t, c, nil)
		if body.closed == 0 {
			t.Errorf("status %d: the body was left open", answer.StatusCode)
		}
	}
}

type closer struct {
	io.Reader
	closed int
}

func (c *closer) Close() error {
	c.closed++
	return nil
}

// everyText is all that a log, a debugger or a careless %v could show of an
// error.
func everyText(e *Error) string {
	plain := *e
	plain.Changed = nil
	return fmt.Sprintf("%v\n%+v\n%s\n%q\n%s\n%#v\n%+v", e, e, e, e, e.Error(), plain, plain)
}

// echoes are the ways in which a provider shows what it got.
var echoes = map[string]func(secret string) http.HandlerFunc{
	"error_description": func(s string) http.HandlerFunc {
		return reply(400, object("error", "invalid_grant", "error_description", "wrong: "+s+"!"))
	},
	"error_uri": func(s string) http.HandlerFunc {
		return reply(400, object("error", "invalid_client", "error_uri", "https://docs.example.org/?was="+s))
	},
	"error": func(s string) http.HandlerFunc { return reply(200, object("error", s)) },
	"a sentence as error": func(s string) http.HandlerFunc {
		return reply(403, object("error", "no, "+s+" ist falsch – ganz"))
	},
	"an object as error": func(s string) http.HandlerFunc {
		return reply(400, `{"error":`+object("code", "x_"+s, "message", s)+`}`)
	},
	"message":  func(s string) http.HandlerFunc { return reply(500, object("message", s)) },
	"redirect": func(s string) http.HandlerFunc { return reply(302, s, "Location", "https://login.example.org/?x="+s) },
	"redirect to a host": func(s string) http.HandlerFunc {
		return reply(302, s, "Location", "https://"+hex.EncodeToString([]byte(s))+".example.org/")
	},
	"header": func(s string) http.HandlerFunc {
		return reply(401, object("error", "invalid_client"), "WWW-Authenticate", `Basic realm="`+s+`"`, "Retry-After", s, "X-Echo", s)
	},
	"HTML": func(s string) http.HandlerFunc { return reply(500, "<html><p>"+s+"</p></html>") },
	"text": func(s string) http.HandlerFunc { return reply(400, s) },
	"form": func(s string) http.HandlerFunc {
		return reply(400, url.Values{"error": {"invalid_grant"}, "error_description": {s}}.Encode())
	},
	"broken JSON":   func(s string) http.HandlerFunc { return reply(200, `{"x":"`+s) },
	"another field": func(s string) http.HandlerFunc { return reply(200, object("x", s)) },
}

func object(pairs ...string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	text, _ := json.Marshal(m)
	return string(text)
}

// TestNoSecretIsEverPartOfAnError has a provider echo each secret, in all the
// ways and encodings, and looks at all that can be seen of the error.
func TestNoSecretIsEverPartOfAnError(t *testing.T) {
	t.Parallel()
	const canary = `can+ary/"7:é&<x>`
	const plainly = "canary-7731-of-plain-letters"
	encoded := map[string]func(string) string{
		"plain": func(s string) string { return s }, "query": url.QueryEscape, "path": url.PathEscape, "HTML": html.EscapeString,
		"base64":    func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"base64url": func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		"Basic": func(s string) string {
			return base64.StdEncoding.EncodeToString([]byte("client:" + url.QueryEscape(s)))
		},
		"JSON": func(s string) string { return object("k", s) },
		"hex":  func(s string) string { return hex.EncodeToString([]byte(s)) },
	}
	for kind, place := range secretPlaces {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			secret := canary
			if strings.HasPrefix(kind, "header") || strings.HasPrefix(kind, "token_url") {
				secret = plainly
			}
			for how, encode := range encoded {
				for where, echo := range echoes {
					p := newProvider(t, echo(encode(secret)))
					c := client(p)
					c.ClientSecret = "some-other-secret"
					previous := place(&c, secret)
					token, failure := obtain(t, c, previous)
					text := everyText(mustFail(t, token, failure))
					for _, decode := range encoded {
						form := decode(secret)
						if strings.Contains(text, form) || strings.Contains(text, fmt.Sprintf("%q", form)) {
							t.Errorf("%s in %s: shown as\n%s", how, where, text)
							break
						}
					}
				}
			}
		})
	}
}

// secretPlaces configure a secret each. They return the token of which a
// refresh is asked for.
var secretPlaces = map[string]func(c *Config, secret string) *Token{
	"client_secret":      func(c *Config, s string) *Token { c.ClientSecret = s; return nil },
	"client_secret_post": func(c *Config, s string) *Token { c.ClientSecret, c.ClientAuth = s, "client_secret_post"; return nil },
	"client_secret by placeholder": func(c *Config, s string) *Token {
		c.ClientSecret, c.Lookup = "{env.S}", newVault("env.S", s).lookup
		return nil
	},
	"password":      func(c *Config, s string) *Token { login(c); c.Password = s; return nil },
	"refresh_token": func(c *Config, s string) *Token { c.Grant, c.RefreshToken = "refresh_token", s; return nil },
	"refresh token issued": func(_ *Config, s string) *Token {
		return &Token{AccessToken: "at", RefreshToken: s}
	},
	"access token issued": func(_ *Config, s string) *Token { return &Token{AccessToken: s} },
	"access token issued, of a refresh": func(_ *Config, s string) *Token {
		return &Token{AccessToken: s, RefreshToken: "rt-0000"}
	},
	"param":            func(c *Config, s string) *Token { c.Params = []Param{param("api_key", s)}; return nil },
	"param of request": func(c *Config, s string) *Token { c.TokenRequest.Params = []Param{param("Passwd", s)}; return nil },
	"param of custom":  func(c *Config, s string) *Token { customGrant(c); c.Params = []Param{param("x", s)}; return nil },
	"param by placeholder": func(c *Config, s string) *Token {
		c.Params, c.Lookup = []Param{param("harmless", "a{env.S}b")}, newVault("env.S", s).lookup
		return nil
	},
	"param_json": func(c *Config, s string) *Token {
		text, _ := json.Marshal(map[string]any{"user": "u", "in": []string{s}})
		c.TokenRequest = Request{Encoding: "json", Params: []Param{{Name: "login", JSON: text}}}
		return nil
	},
	"header": func(c *Config, s string) *Token { c.TokenRequest.Header = []Header{{"X-Api-Key", s}}; return nil },
	"header with a scheme": func(c *Config, s string) *Token {
		c.Grant, c.ClientAuth = "custom", "none"
		c.TokenRequest.Header = []Header{{"Authorization", "Token " + s}}
		return nil
	},
	"header of a refresh": func(c *Config, s string) *Token {
		c.Grant, c.RefreshToken = "refresh_token", "seed-0000"
		c.RefreshRequest = &Request{Header: []Header{{"X-Api-Key", s}}}
		return nil
	},
	"token_url": func(c *Config, s string) *Token { c.TokenURL += "?api_key=" + url.QueryEscape(s); return nil },
	"token_url by placeholder": func(c *Config, s string) *Token {
		c.TokenURL, c.Lookup = c.TokenURL+"/{env.S}", newVault("env.S", s).lookup
		return nil
	},
	"username by placeholder": func(c *Config, s string) *Token {
		login(c)
		c.Username, c.Lookup = "{env.S}", newVault("env.S", s).lookup
		return nil
	},
}

// TestWhatIsNotSecretIsStillTold holds that scrubbing leaves an operator
// something to read.
func TestWhatIsNotSecretIsStillTold(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(401, object("error", "invalid_client", "error_description", "Client my-client is unknown; got s3cr3t-x",
		"error_uri", "https://docs.example.org/e#1"), "Retry-After", "12"))
	c := client(p)
	c.ClientID, c.ClientSecret = "my-client", "s3cr3t-x"
	token, failure := obtain(t, c, nil)
	e := mustFail(t, token, failure)
	const want = "HTTP status 401, invalid_client: Client my-client is unknown; got [redacted] (https://docs.example.org/e#1)"
	if e.Error() != want || !e.Permanent || e.StatusCode != 401 || e.Code != "invalid_client" || e.RetryAfter != 12*time.Second {
		t.Errorf("got %q, %+v", e, describe(e))
	}
}
