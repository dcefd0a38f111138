package caddy_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/canary"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// TestNoSecretIsSeenAnywhere runs sources with a canary in every option that
// takes a secret, good providers and such as repeat what they were sent, and
// looks for canaries and tokens wherever something may be seen of Caddy.
func TestNoSecretIsSeenAnywhere(t *testing.T) {
	t.Parallel()
	caddy := harness.BinaryWith(t, panickingProxy)
	for name, servers := range map[string]string{
		"log at debug level":                    "",
		"trace of handlers and log_credentials": "servers {\n trace\n log_credentials\n}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSecretive(t)
			c := s.start(t, caddy, servers)
			s.drive(t, c)
			s.assertHidden(t, c, caddy, servers != "")
		})
	}
}

// panickingProxy is a module that panics in a request. Of a token request its
// panic tells everything.
const panickingProxy = `package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(panics{}) }

type panics struct{}

func (panics) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.network_proxy.panics", New: func() caddy.Module { return new(panics) }}
}

func (*panics) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (panics) ProxyFunc() func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		if r.UserAgent() == "caddy-inject-token" {
			body, _ := io.ReadAll(r.Body)
			panic(fmt.Sprint("proxying ", r.URL, r.Header, string(body)))
		}
		panic("proxying a request of a caller")
	}
}
`

// visible is no secret: it is sent beside them, and shows that what a provider
// repeats is seen where it is looked for.
const visible = "visible-client-0123456789"

// secretive is a Caddyfile full of secrets, and all that was seen of it.
type secretive struct {
	nest     canary.Nest
	provider *provider.Provider
	echo     string // the address of a provider that repeats what it was sent
	raw      map[string]string
	files    map[string]string
	env      []string
	good     []string // sources that get tokens
	bad      []string // sources that do not
	written  string   // the secret of the wrong Caddyfiles, in quotes

	mu      sync.Mutex // guards answers
	answers strings.Builder
}

func newSecretive(t *testing.T) *secretive {
	s := &secretive{provider: provider.New(t, provider.Dialect{
		Authorize: func(*provider.Provider, *provider.TokenRequest) string { return "" },
		BearerToken: func(r *http.Request) string {
			bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			return cmp.Or(r.URL.Query().Get("access_token"), r.Header.Get("X-Token"), bearer)
		},
	}), files: make(map[string]string), raw: make(map[string]string)}
	for _, name := range []string{
		"client-secret", "password", "refresh-token", "param", "header", "request-param", "refresh-header", "refresh-param",
		"param-json", "basic", "authorization",
	} {
		s.files[name] = s.nest.New(name)
	}
	for _, name := range []string{"url-key", "refresh-url-key"} { // which stand in a URL as they are
		s.files[name] = rand.Text()
		s.nest.Add(name, s.files[name])
	}
	s.files["encryption"] = (rand.Text() + rand.Text())[:43] // 32 bytes in base64
	s.nest.Add("encryption", s.files["encryption"])
	proxy := rand.Text()
	s.nest.Add("proxy", proxy)
	s.env = []string{
		"CANARY_ENV=" + s.nest.New("env"), "CANARY_EXPANDED=" + s.nest.New("expanded"),
		"CANARY_PROXY=http://robot:" + proxy + "@127.0.0.1:1", "CANARY_BROKEN_PROXY=http://robot:" + proxy + "@ba d:1",
	}
	s.provider.Set(func(k *provider.Knobs) {
		k.Lifetime, k.Rotate = 2*time.Second, true
		k.Intercept = s.repeatInHeaders
		k.Handler = repeatQuery
	})
	echo := httptest.NewServer(http.HandlerFunc(repeatEverything))
	t.Cleanup(func() {
		echo.CloseClientConnections()
		echo.Close()
	})
	s.echo = echo.URL
	for name, answer := range rawAnswers {
		s.raw[name] = rawServer(t, answer)
	}
	return s
}

// repeatInHeaders issues a token and repeats the request in fields of the
// answer, and of an informational one before it.
func (s *secretive) repeatInHeaders(w http.ResponseWriter, r *http.Request, n int) bool {
	said := strings.Join(sent(r, s.provider.Requests()[n-1].Body), " ")
	w.Header().Set("Link", "</"+url.PathEscape(said)+">; rel=preload")
	w.WriteHeader(http.StatusEarlyHints)
	w.Header().Set("X-Debug", said)
	w.Header().Set("Set-Cookie", "request="+url.QueryEscape(said))
	return false
}

// repeatQuery is an API that redirects to the same place with a slash, and one
// that breaks off its answer.
func repeatQuery(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/folder"):
		target := r.URL.Path + "/?" + r.URL.RawQuery
		w.Header().Set("Content-Location", target)
		w.Header().Set("Link", "<"+target+`>; rel="canonical"`)
		w.Header().Set("Refresh", "0; url="+target)
		http.Redirect(w, r, target, http.StatusMovedPermanently) // with a page that shows the target
	case strings.HasSuffix(r.URL.Path, "/misplaced"): // which http.Client tells with the URL that it asked for
		w.Header().Set("Location", "http://host:port/")
		w.WriteHeader(http.StatusFound)
	case strings.HasSuffix(r.URL.Path, "/hints"):
		said := r.Header.Get("Authorization") + r.Header.Get("X-Token") + r.URL.RawQuery
		w.Header().Set("X-Debug", strings.ReplaceAll(said, "credential-of-the-caller", ""))
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "hello from the API")
	case strings.HasSuffix(r.URL.Path, "/broken"):
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "only this")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	default:
		_, _ = io.WriteString(w, "hello from the API")
	}
}

// sent returns the values that a token request holds.
func sent(r *http.Request, body string) []string {
	values := []string{visible}
	add := func(form url.Values) {
		for _, v := range form {
			values = append(values, v...)
		}
	}
	add(r.URL.Query())
	if form, err := url.ParseQuery(body); err == nil && !strings.HasPrefix(body, "{") {
		add(form)
	} else {
		values = append(values, body)
	}
	if user, pass, ok := r.BasicAuth(); ok {
		pass, _ = url.QueryUnescape(pass)
		values = append(values, user, pass)
	}
	return append(values, r.Header.Get("X-Api-Key"), r.Header.Get("Authorization"))
}

// encodings are how a provider may write what it repeats.
var encodings = map[string]func(string) string{
	"plain":   func(s string) string { return s },
	"url":     url.QueryEscape,
	"path":    url.PathEscape,
	"json":    func(s string) string { return strings.Trim(string(mustJSON(s)), `"`) },
	"unicode": func(s string) string { return escapeEach(s, `\u%04x`) },
	"percent": func(s string) string {
		return strings.ToUpper(percent.ReplaceAllString(hex.EncodeToString([]byte(s)), "%$0"))
	},
	"html":        func(s string) string { return escapeEach(s, "&#%d;") },
	"hex":         func(s string) string { return hex.EncodeToString([]byte(s)) },
	"base64":      func(s string) string { return base64.StdEncoding.EncodeToString([]byte("x" + s)) },
	"base64url":   func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte("xx" + s)) },
	"basic":       func(s string) string { return base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(s))) },
	"json-in-url": func(s string) string { return url.QueryEscape(string(mustJSON(s))) },
}

var percent = regexp.MustCompile("..")

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

func escapeEach(s, format string) string {
	var out strings.Builder
	for _, r := range s {
		fmt.Fprintf(&out, format, r)
	}
	return out.String()
}

// places are where a provider may repeat what it was sent.
var places = map[string]func(w http.ResponseWriter, said string){
	"description": func(w http.ResponseWriter, said string) {
		answerJSON(w, 400, map[string]any{"error": "invalid_grant", "error_description": said})
	},
	"code": func(w http.ResponseWriter, said string) { answerJSON(w, 400, map[string]any{"error": said}) },
	"uri": func(w http.ResponseWriter, said string) {
		answerJSON(w, 400, map[string]any{"error": "invalid_scope", "error_uri": "https://example.org/?" + said})
	},
	"message": func(w http.ResponseWriter, said string) {
		answerJSON(w, 500, map[string]any{"error": map[string]any{"code": 17, "message": "you said: " + said}})
	},
	"success": func(w http.ResponseWriter, said string) {
		answerJSON(w, 200, map[string]any{"error": false, "message": said, "error_description": said})
	},
	"control": func(w http.ResponseWriter, said string) {
		answerJSON(w, 200, map[string]any{"access_token": said + "\r\n"})
	},
	"html": func(w http.ResponseWriter, said string) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(500)
		fmt.Fprintf(w, "<html><title>%s</title><body>%[1]s</body></html>", said)
	},
	"text": func(w http.ResponseWriter, said string) {
		w.WriteHeader(403)
		_, _ = io.WriteString(w, said)
	},
	"form": func(w http.ResponseWriter, said string) {
		w.WriteHeader(400)
		_, _ = io.WriteString(w, "error=invalid_request&error_description="+said)
	},
	"broken": func(w http.ResponseWriter, said string) { _, _ = io.WriteString(w, `{"`+said+`": `) },
	"header": func(w http.ResponseWriter, said string) {
		w.Header().Set("WWW-Authenticate", `Basic realm="`+said+`"`)
		w.Header().Set("X-Debug", said)
		w.Header().Set("Retry-After", said)
		w.WriteHeader(401)
	},
	"redirect": func(w http.ResponseWriter, said string) {
		w.Header().Set("Location", "https://example.invalid/login?back="+said+"#"+said)
		w.WriteHeader(302)
	},
	"redirect-host": func(w http.ResponseWriter, said string) {
		w.Header().Set("Location", "https://"+said+".invalid/login")
		w.WriteHeader(302)
	},
	"redirect-user": func(w http.ResponseWriter, said string) {
		w.Header().Set("Location", "https://user:"+said+"@example.invalid/login")
		w.WriteHeader(302)
	},
}

func answerJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(mustJSON(body))
}

// repeatEverything serves /PLACE/ENCODING.
func repeatEverything(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	path := strings.Split(r.URL.Path, "/")
	var said []string
	for _, value := range sent(r, string(body)) {
		said = append(said, encodings[path[2]](value))
	}
	places[path[1]](w, strings.Join(said, " "))
}

// rawAnswers are answers that no server of Go's would give.
var rawAnswers = map[string]string{
	"raw-status":  "HTTP/1.1 SAID\r\n\r\n",
	"raw-header":  "HTTP/1.1 400 Bad Request\r\nSAID\r\n\r\n",
	"raw-garbage": "SAID",
	"raw-length":  "HTTP/1.1 400 Bad Request\r\nContent-Length: SAID\r\n\r\n",
	"raw-coding":  "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: SAID\r\n\r\n",
	"raw-chunk":   "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\nSAID\r\n",
	"raw-late":    "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 SAID\r\n\r\n",
	"raw-gzip":    "HTTP/1.1 400 Bad Request\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nSAID",
	"raw-short":   "HTTP/1.1 400 SAID\r\nContent-Length: 4000\r\n\r\n{\"error\":\"SAID\"",
}

// rawServer answers with bytes, in which SAID stands for what was sent.
func rawServer(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				body, _ := io.ReadAll(r.Body)
				_, _ = io.WriteString(conn, strings.ReplaceAll(answer, "SAID", strings.Join(sent(r, string(body)), " ")))
				time.Sleep(100 * time.Millisecond) // the client takes note of what came late
			}()
		}
	}()
	return "http://" + l.Addr().String() + "/token"
}

// everySecret is a source of the password grant with a secret wherever one of
// its options takes one.
const everySecret = `grant password
			client_id ` + visible + `
			client_secret {file.{{dir}}/client-secret}
			username someone
			password {file.{{dir}}/password}
			param tenant {file.{{dir}}/param}
			timeout 2s
			token_request {
				header X-Api-Key {file.{{dir}}/header}
				param first {file.{{dir}}/request-param}
			}`

func (s *secretive) caddyfile(t *testing.T, servers string) (text, address string) {
	var sources, site strings.Builder
	token := s.provider.TokenURL()
	source := func(name, options string) {
		fmt.Fprintf(&sources, "source %s {\n%s\n}\n", name, options)
		fmt.Fprintf(&site, "handle /%s/* {\n inject_token %[1]s %s\n}\n", name, s.provider.API)
	}
	good := func(name, options string) {
		s.good = append(s.good, name)
		source(name, options)
	}
	bad := func(name, options string) {
		s.bad = append(s.bad, name)
		source(name, options)
	}
	good("basic", everySecret+`
			refresh_request {
				header X-Refresh {file.{{dir}}/refresh-header}
				param further {file.{{dir}}/refresh-param}
			}
			token_url `+token+`
			transport http {
				versions 1.1
				dial_timeout 5s
			}`)
	good("post", "grant client_credentials\n client_auth client_secret_post\n client_secret {env.CANARY_ENV}\n client_id "+visible+"\n token_url "+token)
	good("query", "grant client_credentials\n client_auth client_secret_query\n client_secret {file.{{dir}}/client-secret}\n client_id "+visible+
		"\n token_url "+token+"?key={file.{{dir}}/url-key}\n token_request GET query {\n param first {file.{{dir}}/request-param}\n}"+
		"\n refresh_request {\n url "+token+"?key={file.{{dir}}/refresh-url-key}\n}")
	good("json", "grant client_credentials\n client_auth client_secret_post\n client_secret {file.{{dir}}/client-secret}\n client_id "+visible+
		"\n token_url "+token+"\n token_request json\n param_json login `{\"deep\": [\"{file.{{dir}}/param-json}\"]}`")
	good("refresh", "grant refresh_token\n client_id "+visible+"\n refresh_token {file.{{dir}}/refresh-token}\n token_url "+token)
	good("custom", "grant custom\n param user someone\n param password {file.{{dir}}/password}\n token_request json {\n header Authorization \"Basic {file.{{dir}}/basic}\"\n}\n token_url "+token)
	good("expanded", "grant client_credentials\n client_id "+visible+"\n client_secret `{$CANARY_EXPANDED:not-expanded}`\n token_url "+token)
	for place := range places {
		for encoding := range encodings {
			bad(place+"-"+encoding, everySecret+"\n token_url "+s.echo+"/"+place+"/"+encoding)
		}
	}
	for name, address := range s.raw {
		bad(name, everySecret+"\n token_url "+address)
	}
	for encoding := range encodings {
		bad("refreshing-"+encoding, "grant refresh_token\n client_id "+visible+"\n refresh_token {file.{{dir}}/refresh-token}\n token_url "+s.echo+"/description/"+encoding+"?key={file.{{dir}}/url-key}")
		bad("custom-"+encoding, "grant custom\n param id "+visible+"\n param password {file.{{dir}}/password}\n param_json login `{\"deep\": [\"{file.{{dir}}/param-json}\"]}`\n"+
			"token_request json {\n header Authorization \"Token {file.{{dir}}/authorization}\"\n}\n token_url "+s.echo+"/description/"+encoding)
	}
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	t.Cleanup(func() {
		silent.CloseClientConnections()
		silent.Close()
	})
	bad("silent", everySecret+"\n token_url "+silent.URL+"/token?key={file.{{dir}}/url-key}")
	bad("closed", everySecret+"\n token_url http://127.0.0.1:1/token?key={file.{{dir}}/url-key}")
	bad("proxied", everySecret+"\n token_url "+token+"\n transport http {\n network_proxy url {env.CANARY_PROXY}\n}")
	bad("misproxied", everySecret+"\n token_url "+token+"\n transport http {\n network_proxy url {env.CANARY_BROKEN_PROXY}\n}")
	// Its secret comes late, so that a caller begins its token request.
	bad("late", "grant client_credentials\n client_id "+visible+"\n client_secret {file.{{dir}}/late}\n token_url "+token+"\n transport http {\n dial_timeout 5s\n}")
	bad("panics", everySecret+"\n token_url "+token+"?key={file.{{dir}}/url-key}\n transport http {\n network_proxy panics\n}")

	address = "http://127.0.0.1:" + itoa(harness.Port(t))
	return fmt.Sprintf(`{
	{{globals}}
	%s
	token_sources {
		encryption_key {file.{{dir}}/encryption}
		%s
	}
}
%s {
	bind 127.0.0.1
	log
	%s
	handle /in-query/* {
		inject_token basic %s {
			query access_token
			lb_retries 1
		}
	}
	handle /in-field/* {
		inject_token basic %[5]s {
			header X-Token
		}
	}
	handle /dead/* {
		inject_token basic 127.0.0.1:1 {
			query access_token
			header X-Token
			header Authorization
		}
	}
	handle /misproxied-api/* {
		inject_token basic %[5]s {
			transport http {
				network_proxy url {env.CANARY_BROKEN_PROXY}
			}
		}
	}
	handle /checked/* {
		inject_token basic %[5]s {
			query access_token
			health_uri /misplaced
			health_interval 500ms
			health_follow_redirects
		}
	}
	handle /panic/* {
		inject_token basic %[5]s {
			query access_token
			header X-Token
			transport http {
				network_proxy panics
			}
		}
	}
	handle_errors {
		respond "{http.error} {http.error.message} {http.error.trace}"
	}
}
`, servers, sources.String(), address, site.String(), s.provider.API), address
}

func (s *secretive) start(t *testing.T, caddy, servers string) *harness.Caddy {
	text, address := s.caddyfile(t, servers)
	options := []harness.Option{harness.Executable(caddy), harness.Env(s.env...), harness.File("address", address)}
	for name, secret := range s.files {
		options = append(options, harness.File(name, secret+"\n"))
	}
	c := harness.Start(t, text, options...)
	t.Cleanup(func() {
		c.Excuse("panic in a token request")
	})
	return c
}

// call asks as a caller does, keeps all that comes, and returns the status; 0
// where the connection broke.
func (s *secretive) call(t *testing.T, target string) int {
	t.Helper()
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		s.see(fmt.Sprintln(code, header))
		return nil
	}}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, target, nil)
	if err != nil {
		t.Error(err)
		return 0
	}
	req.Header.Set("X-Marker", "marker-of-the-caller")
	req.Header.Set("Authorization", "Bearer credential-of-the-caller")
	client := http.Client{
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		s.see(err.Error())
		return 0
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	s.see(fmt.Sprintln(resp.Status, resp.Header, string(body), resp.Trailer, err))
	return resp.StatusCode
}

func (s *secretive) see(answer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers.WriteString(answer)
}

// drive sends requests of every kind until every source has done what it can.
func (s *secretive) drive(t *testing.T, c *harness.Caddy) {
	address, err := os.ReadFile(filepath.Join(c.Dir, "address"))
	if err != nil {
		t.Fatal(err)
	}
	at := func(path string) string { return string(address) + path }
	// A caller who is always there while token requests are made.
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	busy.Go(func() {
		for ctx.Err() == nil {
			s.call(t, at("/in-query/busy"))
			time.Sleep(10 * time.Millisecond)
		}
	})
	stop := func() {
		cancel()
		busy.Wait()
	}
	defer stop()
	for _, source := range s.bad {
		if got := s.call(t, at("/"+source+"/x")); got != http.StatusBadGateway && got != http.StatusServiceUnavailable {
			t.Errorf("%s: answered %d", source, got)
		}
	}
	c.Write("late", s.nest.New("late"))
	c.Eventually(30*time.Second, "a caller begins a token request", func() bool { return s.call(t, at("/late/x")) == http.StatusOK })
	c.Eventually(time.Minute, "every good source has renewed its token twice", func() bool {
		for _, source := range s.good {
			if got := s.call(t, at("/"+source+"/x")); got != http.StatusOK {
				t.Errorf("%s: answered %d", source, got)
			}
		}
		for path, want := range map[string]int{
			"/in-query/x": 200, "/in-query/folder?a=b": 301, "/in-query/broken": 200, "/in-field/x": 200, "/in-field/broken": 200,
			"/dead/x": 502, "/panic/x": 0, "/nobody": 200, "/misproxied-api/x": 502,
			"/in-query/hints?a=b": 200, "/in-field/hints": 200, "/post/hints": 200,
		} {
			if got := s.call(t, at(path)); got != want {
				t.Errorf("%s: answered %d, want %d", path, got, want)
			}
		}
		s.see(c.AdminGet("/debug/pprof/goroutine?debug=2")) // while requests run
		renewed := make(map[any]int)
		for _, line := range c.LogLines() {
			if line["msg"] == "token renewed" {
				renewed[line["logger"]]++
			}
		}
		return t.Failed() || !slices.ContainsFunc(s.good, func(source string) bool { return renewed["token_sources."+source] < 2 })
	})
	stop()
	for _, text := range s.wrongCaddyfiles() {
		err := c.Reload(text)
		if err == nil {
			t.Errorf("this was loaded:\n%s", text)
			continue
		}
		s.see(err.Error())
	}
}

// TestAMistakeBesideASecretDoesNotShowIt has the commands report what is wrong.
func TestAMistakeBesideASecretDoesNotShowIt(t *testing.T) {
	t.Parallel()
	s := new(secretive)
	texts := s.wrongCaddyfiles()
	dir := t.TempDir()
	// Unused, it stands in what adapt prints: so it would be found.
	harness.WriteFile(t, dir, "right", "localhost {\n respond "+s.written+"\n}\n")
	if out, _ := harness.Run(t, dir, "adapt", "--config", "right", "--adapter", "caddyfile"); len(s.nest.Find(out)) == 0 {
		t.Errorf("a secret is not found in %s", out)
	}
	for i, text := range texts {
		harness.WriteFile(t, dir, "Caddyfile", strings.Replace(text, "{{globals}}", "admin off", 1))
		commands := []string{"validate"}
		if i%4 == 0 {
			commands = append(commands, "adapt", "run")
		}
		for _, command := range commands {
			out, code := harness.Run(t, dir, command, "--config", "Caddyfile", "--adapter", "caddyfile")
			if code == 0 {
				t.Errorf("caddy %s finds nothing wrong:\n%s", command, text)
			}
			if found := s.nest.Find(out); len(found) > 0 {
				t.Errorf("caddy %s shows a secret of\n%s\nin: %s", command, text, out)
			}
		}
	}
}

// wrongCaddyfiles are mistakes beside a secret that is written out.
func (s *secretive) wrongCaddyfiles() []string {
	secret := "`" + s.nest.New("written") + "`"
	s.written = secret
	var texts []string
	for _, line := range []string{
		"client_secret SECRET SECRET", "client_secret SECRET\n client_secret SECRET", "client_secrt SECRET", "client_secret\n SECRET",
		"client_secret {\n SECRET\n}", "client_secret SECRET {\n a\n}", "client_auth SECRET", "password SECRET", "refresh_token SECRET",
		"param SECRET", "param a SECRET SECRET", "param a SECRET\n grant custom", "param_json a SECRET", "param_json a `{\"SECRET\"`",
		"token_request json {\n header SECRET\n}", "token_request {\n header A SECRET SECRET\n}", "token_request {\n param SECRET\n}",
		"token_request {\n header `A B` SECRET\n}", "token_request SECRET", "refresh_request {\n url `https://user:SECRET@example.org`\n}",
		"refresh_request {\n url `https://example.org/?a=SECRET#b`\n}", "transport http {\n SECRET\n}", "transport http {\n network_proxy SECRET\n}",
		"transport http {\n network_proxy url `http://user:SECRET@%zz`\n}", "timeout 1s SECRET", "scope_separator SECRET SECRET",
		"client_secret `a{SECRET}b` c", "client_secret SECRET \"",
	} {
		options := "token_url https://example.org/token\n grant client_credentials\n client_id a\n" + line
		options = strings.ReplaceAll(options, "`", "\x00")
		options = quote(options, secret)
		texts = append(texts, "{\n {{globals}}\n token_sources {\n source wrong {\n"+options+"\n}\n}\n}\n")
	}
	return texts
}

// quote puts a secret, in backquotes, into a text; within backquotes, marked
// by zero bytes, it needs none.
func quote(text, secret string) string {
	parts := strings.Split(text, "\x00")
	for i := range parts {
		if i%2 == 1 {
			parts[i] = "`" + strings.ReplaceAll(parts[i], "SECRET", strings.Trim(secret, "`")) + "`"
		} else {
			parts[i] = strings.ReplaceAll(parts[i], "SECRET", secret)
		}
	}
	return strings.Join(parts, "")
}

// assertHidden looks everywhere.
func (s *secretive) assertHidden(t *testing.T, c *harness.Caddy, caddy string, traced bool) {
	for _, token := range s.provider.IssuedTokens() {
		kind, random, _ := strings.Cut(token, "-")
		s.nest.Add("an issued "+kind+" token", random)
	}
	look := func(place, text, known string, expected ...string) {
		t.Helper()
		if !strings.Contains(text, known) {
			t.Errorf("%s does not hold %q, so that nothing is to be found in it", place, known)
		}
		if found := s.nest.Find(text); !slices.Equal(found, expected) {
			t.Errorf("%s shows %q, want %q\n%s", place, found, expected, s.around(text))
		}
	}
	s.assertSearchWorks(t)

	adapted, code := harness.RunExecutable(t, caddy, c.Dir, nil, "adapt", "--config", "Caddyfile")
	if code != 0 {
		t.Errorf("caddy adapt: %s", adapted)
	}
	// What Caddy expands by itself stands in the configuration, as is documented;
	// this command has another environment.
	look("caddy adapt", adapted, visible)
	look("the configuration", c.AdminGet("/config/"), visible, "expanded")
	for _, path := range []string{"/debug/pprof/goroutine?debug=2", "/debug/pprof/goroutine?debug=1"} {
		look(path, c.AdminGet(path), "goroutine")
	}
	look("/debug/vars", c.AdminGet("/debug/vars"), "memstats")
	look("/metrics", c.AdminGet("/metrics"), "go_goroutines")
	look("the upstreams", c.AdminGet("/reverse_proxy/upstreams"), "127.0.0.1")

	s.mu.Lock()
	answers := s.answers.String()
	s.mu.Unlock()
	look("what callers got", answers, "hello from the API")
	// At debug level Caddy's own network_proxy tells the address of the proxy.
	log := networkProxy.ReplaceAllString(c.Log(), "")
	look("the log", log, visible)
	for _, known := range []string{
		"marker-of-the-caller", "[redacted]", "panic in a token request", "proxying a request of a caller", `"token_outcome":"injected"`,
		"this secret stands in the configuration itself", "no complete answer in time", "connection refused",
		"failed to parse Location header", "an address is not a URL", "the forward proxy: connection refused",
	} {
		if !strings.Contains(log, known) {
			t.Errorf("the log does not hold %q, so that it was not tried", known)
		}
	}
	for _, known := range []string{"credential-of-the-caller", `"logger":"http.log.trace"`} {
		if strings.Contains(log, known) != traced {
			t.Errorf("whether the log holds %q: %v", known, !traced)
		}
	}
	var received strings.Builder
	for _, r := range s.provider.APIRequests() {
		fmt.Fprintln(&received, r.Method, r.URL.String(), r.Host, r.Header, r.Trailer, r.Body)
	}
	look("what the upstream got", received.String(), "Bearer ", "an issued access token")
	s.assertFilesHidden(t, c)
}

var networkProxy = regexp.MustCompile(`(?m)^.*"logger":"caddy.network_proxy.url","msg":"setting transport proxy url".*$`)

// assertFilesHidden looks into the files that Caddy writes.
func (s *secretive) assertFilesHidden(t *testing.T, c *harness.Caddy) {
	t.Helper()
	for _, folder := range []string{"config", "data"} {
		err := filepath.WalkDir(filepath.Join(c.Dir, folder), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var expected []string
			if entry.Name() == "autosave.json" {
				expected = []string{"expanded"}
			}
			if found := s.nest.Find(string(text)); !slices.Equal(found, expected) {
				t.Errorf("%s shows %q, want %q", path, found, expected)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// assertSearchWorks holds that a secret would be found in every encoding that
// providers use here, whole or cut off.
func (s *secretive) assertSearchWorks(t *testing.T) {
	t.Helper()
	secret := s.files["password"]
	for name, encode := range encodings {
		for _, part := range []string{secret, secret[:len(secret)/2], secret[len(secret)/2:]} {
			if found := s.nest.Find("before " + encode("beside "+part+" beside") + " after"); !slices.Equal(found, []string{"password"}) {
				t.Errorf("of a password in the encoding %s is found: %q", name, found)
			}
		}
	}
}

// around shows where a secret stands, a few lines of it.
func (s *secretive) around(text string) string {
	var out strings.Builder
	shown := 0
	for line := range strings.Lines(text) {
		if found := s.nest.Find(line); len(found) > 0 && shown < 20 {
			shown++
			fmt.Fprintf(&out, "%q in %.700s\n", found, line)
		}
	}
	return out.String()
}
