package caddy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// TestNothingOfARefusalReachesTheCaller has the token revoked while callers of
// every protocol are on their way to upstreams of every protocol. What they get
// must be what a caller of a plain reverse_proxy gets who was never refused.
func TestNothingOfARefusalReachesTheCaller(t *testing.T) {
	t.Parallel()
	const requests = 4 * 5 // by protocols in front and behind
	p := provider.New(t, provider.Dialect{})
	refused := newCrowd(requests)
	api := &gate{
		valid: func(token string) bool { return token == plainToken || p.Valid(token) },
		refuse: func(w http.ResponseWriter, r *http.Request) {
			refused.wait()
			refuseLoudly(w, r)
		},
	}
	plain, secure := serve(t, api), serveTLS(t, api)
	const verify = "transport http {\n tls_insecure_skip_verify\n"
	_, ways := bothWaysTLS(t, p, fmt.Sprintf(`log
		handle /h1/* {
			proxy %[1]s {
			}
		}
		handle /h2c/* {
			proxy h2c://%[1]s {
			}
		}
		handle /tls1/* {
			proxy https://localhost:%[2]s {
				%[3]s versions 1.1
				}
			}
		}
		handle /tls2/* {
			proxy https://localhost:%[2]s {
				%[3]s versions 2
				}
			}
		}
		handle /tls3/* {
			proxy https://localhost:%[4]s {
				%[3]s versions 3
				}
			}
		}`, plain, secure, verify, serveHTTP3(t, api)))
	warm(t, ways[1].http+"/h1/warm")
	p.Revoke()

	var asking sync.WaitGroup
	control, injected := ways[0].clients(t), ways[1].clients(t)
	for front, c := range injected {
		for _, behind := range []string{"/h1/", "/h2c/", "/tls1/", "/tls2/", "/tls3/"} {
			path := behind + strings.ReplaceAll(front, "/", "")
			asking.Go(func() {
				method, text := http.MethodGet, ""
				if strings.HasPrefix(behind, "/tls") {
					method, text = http.MethodPost, "a small body"
				}
				ask := func(c client) (*http.Response, string) {
					req, err := http.NewRequestWithContext(t.Context(), method, c.base+path, strings.NewReader(text))
					if err != nil {
						t.Error(err)
						return nil, ""
					}
					resp, err := c.Do(req)
					if err != nil {
						t.Errorf("%s: %v", path, err)
						return nil, ""
					}
					defer resp.Body.Close()
					body, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Errorf("%s: %v", path, err)
					}
					return resp, string(body)
				}
				resp, body := ask(c)
				want, wantBody := ask(control[front])
				if resp == nil || want == nil {
					return
				}
				got := shown(resp, body)
				if strings.Contains(got, refusedMark) {
					t.Errorf("%s: the caller sees of the refusal: %s", path, got)
				}
				if want := shown(want, wantBody); got != want || resp.StatusCode != http.StatusOK {
					t.Errorf("%s: answered\n%s\nwant, as without us,\n%s", path, got, want)
				}
				if refused, passed := api.attempts(path); refused != 1 || passed != 2 {
					t.Errorf("%s: refused %d times and let through %d times, want once, and once for each way", path, refused, passed)
				}
			})
		}
	}
	asking.Wait()
	if n := p.Count(); n != 2 {
		t.Errorf("%d token requests, want the first and one more", n)
	}
	p.AssertStrict()
}

// TestNoByteOfARefusalReachesTheCaller looks at the bytes on the connection.
func TestNoByteOfARefusalReachesTheCaller(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	api := &gate{valid: i.valid}
	text, url := caddyfile(t, i.source("crm"), "log\nheader >X-Told {http.inject_token.outcome}\ninject_token crm "+serve(t, api))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	i.revoke()
	conn := dial(t, url)
	fmt.Fprintf(conn, "GET /x HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", strings.TrimPrefix(url, "http://"))
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(answer); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || strings.Count(got, "HTTP/1.1") != 1 || strings.Contains(got, refusedMark) {
		t.Errorf("the caller got\n%s", got)
	}
	if !strings.Contains(string(answer), "X-Told: replayed\r\n") {
		t.Errorf("the placeholder does not say replayed:\n%s", answer)
	}
	waitOutcomes(t, c, "replayed", 1)
	if tokens := api.seen("/x"); len(tokens) != 2 || tokens[0] == tokens[1] {
		t.Errorf("the API saw %d tokens of the request, want two different ones: %q", len(tokens), tokens)
	}
}

// TestARefusalWithoutEndHoldsNobody has an API whose 401 never ends. It is
// closed, not read to its end.
func TestARefusalWithoutEndHoldsNobody(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	var closed atomic.Int32
	api := &gate{valid: i.valid, refuse: func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, refusedMark+"\n")
			w.(http.Flusher).Flush()
			select {
			case <-time.After(50 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
		closed.Add(1)
	}}
	address := serve(t, api)
	text, url := caddyfile(t, i.source("one")+i.source("two"), fmt.Sprintf("inject_token /one one %[1]s\ninject_token /two two h2c://%[1]s", address))
	harness.Start(t, text, withSecret(provider.ClientSecret))
	paths := []string{"/one", "/two"}
	warm(t, url+"/one", url+"/two")
	i.revoke()
	for _, path := range paths {
		resp, body := harness.Get(t, url+path)
		if resp.StatusCode != http.StatusOK || strings.Contains(body, refusedMark) {
			t.Errorf("%s was answered %d %q", path, resp.StatusCode, body)
		}
	}
	harness.Eventually(t, 20*time.Second, "the API's refusals are closed", func() bool { return closed.Load() == 2 })
}

// TestAllWhoAreRefusedWithOneTokenShareOneTokenRequest has fifty callers at the
// API when their token is revoked.
func TestAllWhoAreRefusedWithOneTokenShareOneTokenRequest(t *testing.T) {
	t.Parallel()
	const callers = 50
	i := newIssuer(t)
	arrived := newCrowd(callers)
	api := &gate{
		valid:  i.valid,
		refuse: func(w http.ResponseWriter, r *http.Request) { arrived.wait(); refuseLoudly(w, r) },
	}
	text, url := caddyfile(t, i.source("crm"), "log\ninject_token crm "+serve(t, api))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	i.revoke()
	l := startBurst(t, url, callers)
	c.Eventually(20*time.Second, "all have asked", func() bool { return len(l.all()) == callers })
	l.end()
	assertAll(t, "refused callers", l.all(), http.StatusOK, callers)
	if n := i.count("crm"); n != 2 {
		t.Errorf("%d token requests, want the first and one for all who were refused", n)
	}
	waitOutcomes(t, c, "replayed", callers)
}

// TestASecondRefusalIsTheCallersOwn wants the second refusal whole, and nothing
// of the first in it. The one after that is not worth a token request, and is
// passed on as well.
func TestASecondRefusalIsTheCallersOwn(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	var mu sync.Mutex // guards tokens
	var tokens []string
	api := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/warm" {
			return
		}
		mu.Lock()
		tokens = append(tokens, bearerOf(r))
		n := itoa(len(tokens))
		mu.Unlock()
		w.Header().Set("X-Refusal", n)
		w.Header()["Set-Cookie"] = []string{"a" + n + "=1", "b=" + n}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+n+`"`)
		w.Header().Set("Trailer", "X-After")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "refusal "+n+"\n"+strings.Repeat(n, 100_000))
		w.Header().Set("X-After", n)
	}))
	text, url := caddyfile(t, i.source("crm"), "log\ninject_token crm "+api)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	want := func(resp *http.Response, body, n string) {
		t.Helper()
		if resp.StatusCode != http.StatusUnauthorized || body != "refusal "+n+"\n"+strings.Repeat(n, 100_000) {
			t.Errorf("answered %d and %d bytes %.40q, want refusal %s", resp.StatusCode, len(body), body, n)
		}
		if got := fmt.Sprint(resp.Header["X-Refusal"], resp.Header["Set-Cookie"], resp.Header["Www-Authenticate"], resp.Trailer["X-After"]); got !=
			fmt.Sprintf(`[%[1]s] [a%[1]s=1 b=%[1]s] [Bearer realm="%[1]s"] [%[1]s]`, n) {
			t.Errorf("the header and trailer are those of another refusal than %s: %s", n, got)
		}
	}
	began := time.Now()
	resp, body := harness.Get(t, url+"/x")
	want(resp, body, "2")
	mu.Lock()
	if tokens[0] == tokens[1] || i.owner(tokens[0]) != "crm" || i.owner(tokens[1]) != "crm" {
		t.Errorf("the two attempts came with the tokens %q", tokens)
	}
	mu.Unlock()
	if n := i.count("crm"); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	waitOutcomes(t, c, "refused", 1)

	resp, body = harness.Get(t, url+"/x")
	if time.Since(began) < 4*time.Second { // later a token request may be due again
		want(resp, body, "3")
		if n := i.count("crm"); n != 2 {
			t.Errorf("%d token requests, although the last one has just cured nothing", n)
		}
	}
	waitOutcomes(t, c, "refused", 2)
}

// TestWhatCountsAsARefusalIsSaid asks each API once after its token was
// revoked, and once more: where the first was a refusal, the token is a new one
// by then.
func TestWhatCountsAsARefusalIsSaid(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, options string
		method, body  string
		status        int // of the refusal
		replayed      bool
		renewed       bool
	}{
		{"by-default", "", "GET", "", 401, true, true},
		{"by-default-not", "", "GET", "", 403, false, false},
		{"written", "replay_on 401", "GET", "", 401, true, true},
		{"another", "replay_on 403", "GET", "", 403, true, true},
		{"another-alone", "replay_on 403", "GET", "", 401, false, false},
		{"to-a-login-page", "replay_on 401 302 419", "GET", "", 302, true, true},
		{"of-several", "replay_on 401 302 419", "POST", "small", 419, true, true},
		{"never", "replay_on off", "GET", "", 401, false, true},
		{"never-with-a-body", "replay_on off", "POST", "small", 401, false, true},
		{"no-body", "replay_buffer 0", "GET", "", 401, true, true},
		{"an-empty-body", "replay_buffer 0", "POST", "", 401, true, true},
		{"a-body", "replay_buffer 0", "POST", "x", 401, false, true},
		{"as-large-as-the-buffer", "replay_buffer 1KiB", "PUT", strings.Repeat("x", 1024), 401, true, true},
		{"larger-than-the-buffer", "replay_buffer 1KiB", "PUT", strings.Repeat("x", 1025), 401, false, true},
		{"idempotent-or-not", "", "PATCH", "small", 401, true, true},
		{"a-head", "", "HEAD", "", 401, true, true},
	}
	i := newIssuer(t)
	api := &gate{valid: i.valid}
	address := serve(t, api)
	var sources, routes strings.Builder
	for _, k := range cases {
		sources.WriteString(i.source(k.name))
		fmt.Fprintf(&routes, "inject_token /%s %[1]s %s {\n%s\n}\n", k.name, address, k.options)
	}
	text, url := caddyfile(t, sources.String(), "log\n"+routes.String())
	harness.Start(t, text, withSecret(provider.ClientSecret))
	for _, k := range cases {
		warm(t, url+"/"+k.name)
	}
	i.revoke()
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			path := "/" + k.name
			req, err := http.NewRequest(k.method, url+path+"?refuse="+itoa(k.status), strings.NewReader(k.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, body := harness.Do(t, req)
			refused, passed := api.attempts(path)
			switch {
			case !k.replayed:
				assertRefusedLoudly(t, k.method, resp, body, k.status)
				if refused != 1 || passed != 1 {
					t.Errorf("refused %d times and let through %d times besides the first; it was not to be sent again", refused, passed-1)
				}
			case resp.StatusCode != http.StatusOK || strings.Contains(shown(resp, body), refusedMark):
				t.Errorf("answered %s", shown(resp, body))
			case k.method != http.MethodHead && !strings.HasPrefix(body, fmt.Sprintf("hello %s %s, %d bytes, <nil>", k.method, path, len(k.body))):
				t.Errorf("the body did not arrive: %s", body)
			case refused != 1 || passed != 2:
				t.Errorf("refused %d times and let through %d times, want 1 and 2", refused, passed)
			}
			if !k.renewed {
				resp, body := harness.Get(t, url+path+"?refuse="+itoa(k.status))
				assertRefusedLoudly(t, "the one after", resp, body, k.status)
				if n := i.count(k.name); n != 1 {
					t.Errorf("%d token requests, although this counts as no refusal", n)
				}
				return
			}
			eventuallyServed(t, k.name, url+path)
			if n := i.count(k.name); n != 2 {
				t.Errorf("%d token requests, want 2", n)
			}
		})
	}
}

// TestALackOfScopeIsNoDeadToken wants the API's word that a scope is missing
// passed on, without a token request, whatever counts as a refusal.
func TestALackOfScopeIsNoDeadToken(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	var attempts atomic.Int32
	api := &gate{valid: i.valid, next: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("admin") {
			attempts.Add(1)
			w.Header().Add("WWW-Authenticate", `Basic realm="x"`)
			w.Header().Add("WWW-Authenticate", `Bearer realm="x", error="insufficient_scope", scope="admin"`)
			w.WriteHeader(map[string]int{"/a": 401, "/b": 403}[r.URL.Path])
		}
		fmt.Fprint(w, "of the API")
	}}
	address := serve(t, api)
	text, url := caddyfile(t, i.source("a")+i.source("b"), fmt.Sprintf("log\ninject_token /a a %[1]s\ninject_token /b b %[1]s {\n replay_on 401 403\n}", address))
	harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/a", url+"/b")
	for path, status := range map[string]int{"/a": 401, "/b": 403} {
		resp, body := harness.Get(t, url+path+"?admin")
		if resp.StatusCode != status || body != "of the API" || len(resp.Header["Www-Authenticate"]) != 2 {
			t.Errorf("%s was answered %d %q %q", path, resp.StatusCode, body, resp.Header["Www-Authenticate"])
		}
	}
	if n := attempts.Load(); n != 2 {
		t.Errorf("the two requests were sent %d times", n)
	}
	// That there was no token request is seen by the one that comes now: by then
	// another would have been made.
	i.revoke()
	for _, source := range []string{"a", "b"} {
		warm(t, url+"/"+source)
		if n := i.count(source); n != 2 {
			t.Errorf("%d token requests of %s, want the first and the one for a revoked token", n, source)
		}
	}
}

// TestARefusalIsPassedOnWhereThereIsNoOtherToken has a provider that is down,
// and one that hangs, when the API refuses. Nobody gets a 503 for that, nor
// loses the token.
func TestARefusalIsPassedOnWhereThereIsNoOtherToken(t *testing.T) {
	t.Parallel()
	for name, k := range map[string]struct {
		again func(http.ResponseWriter, *http.Request, int) bool
		least time.Duration
	}{
		"down":  {provider.Fail(http.StatusServiceUnavailable, ""), 0},
		"hangs": {hang, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t)
			i.interceptWith(func(w http.ResponseWriter, r *http.Request, _ string, n int) bool { return n > 1 && k.again(w, r, n) })
			api := &gate{valid: i.valid}
			text, url := caddyfile(t, i.source("crm"), "log\ninject_token crm "+serve(t, api)+" {\n wait 2s\n}")
			c := harness.Start(t, text, withSecret(provider.ClientSecret))
			eventuallyServed(t, "with the first token", url+"/warm")
			token := i.token("crm")
			i.revoke()
			began := time.Now()
			resp, body := harness.Get(t, url+"/x")
			took := time.Since(began)
			assertRefusedLoudly(t, "with the provider away", resp, body, http.StatusUnauthorized)
			if took < k.least-100*time.Millisecond || took > k.least+8*time.Second {
				t.Errorf("the refusal was held back for %v; wait is 2s", took)
			}
			if refused, passed := api.attempts("/x"); refused != 1 || passed != 0 {
				t.Errorf("the request was sent %d times", refused+passed)
			}
			waitOutcomes(t, c, "refused", 1)
			if n := i.count("crm"); n != 2 {
				t.Errorf("%d token requests, want 2", n)
			}
			i.pardon()
			for range 3 {
				warm(t, url+"/again")
			}
			if tokens := slices.Compact(api.seen("/again")); !slices.Equal(tokens, []string{token}) {
				t.Errorf("the token did not stay in use; there came %q", tokens)
			}
		})
	}
}

// TestNothingBreaksWhenTheCallerLeavesBeforeTheReplay has callers leave while
// the new token is on its way. It arrives all the same, for those who follow.
func TestNothingBreaksWhenTheCallerLeavesBeforeTheReplay(t *testing.T) {
	t.Parallel()
	const callers = 10
	i := newIssuer(t)
	asked, release := make(chan struct{}), make(chan struct{})
	i.interceptWith(func(_ http.ResponseWriter, r *http.Request, _ string, n int) bool {
		if n == 2 {
			close(asked)
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	})
	api := &gate{valid: i.valid}
	text, url := caddyfile(t, i.source("crm"), "log\ninject_token crm "+serve(t, api))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	i.revoke()
	ctx, leave := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for n := range callers {
		asking.Go(func() {
			var body io.Reader
			if n%2 == 0 {
				body = io.MultiReader(strings.NewReader("a body")) // chunked
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/x", body)
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
				t.Errorf("answered %d before there was a token", resp.StatusCode)
			}
		})
	}
	<-asked
	c.Eventually(20*time.Second, "all are refused", func() bool { refused, _ := api.attempts("/x"); return refused == callers })
	leave()
	asking.Wait()
	c.Eventually(20*time.Second, "nobody is under way", func() bool { return underWay(t, c) == 0 })
	close(release)
	eventuallyServed(t, "after the callers have left", url+"/after")
	if n := i.count("crm"); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	if _, passed := api.attempts("/x"); passed != 0 {
		t.Errorf("%d requests were sent again, although their callers had left", passed)
	}
	assertNoneDown(t, c)
}

// TestARefusedRequestSurvivesAReload has the configuration reloaded while refused
// requests wait for the new token.
func TestARefusedRequestSurvivesAReload(t *testing.T) {
	t.Parallel()
	const callers = 10
	i := newIssuer(t)
	release := make(chan struct{})
	i.interceptWith(func(_ http.ResponseWriter, r *http.Request, _ string, n int) bool {
		if n == 2 {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	})
	api := &gate{valid: i.valid}
	text, url := caddyfile(t, i.source("crm"), "respond /after 204\ninject_token crm "+serve(t, api))
	// Longer than the requests wait, or the old server breaks them off.
	text = strings.Replace(text, "{{globals}}", "{{globals}}\n grace_period 1m", 1)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	i.revoke()
	l := startBurst(t, url, callers)
	c.Eventually(20*time.Second, "all are refused and wait", func() bool { return i.count("crm") == 2 && underWay(t, c) == callers })
	reloaded := make(chan error, 1)
	go func() {
		reloaded <- c.Reload(strings.Replace(text, "bind 127.0.0.1\n", "bind 127.0.0.1\n header X-Reloaded yes\n", 1))
	}()
	c.Eventually(20*time.Second, "the new configuration serves", func() bool {
		answer := tryToAsk(url + "/after")
		return answer.header.Get("X-Reloaded") == "yes"
	})
	close(release)
	l.end()
	if err := <-reloaded; err != nil {
		t.Error(err)
	}
	assertAll(t, "refused before the reload", l.all(), http.StatusOK, callers)
	if n := i.count("crm"); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// TestAWebSocketHandshakeIsReplayed refuses a handshake once. Then messages
// pass both ways.
func TestAWebSocketHandshakeIsReplayed(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	api := &gate{valid: i.valid, next: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
		if err != nil {
			t.Error(err)
			return
		}
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			if string(message) == "bye" {
				conn.Close(4017, "as you wish")
				return
			}
			if err := conn.Write(r.Context(), kind, append([]byte("echo of "), message...)); err != nil {
				return
			}
		}
	}}
	address, secure := serve(t, api), serveTLS(t, api)
	text, url := caddyfile(t, i.source("one")+i.source("two"), fmt.Sprintf(`log
	inject_token /one one %s
	inject_token /two two https://localhost:%s {
		transport http {
			tls_insecure_skip_verify
		}
	}`, address, secure))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/one", url+"/two")
	i.revoke()
	for n, path := range []string{"/one", "/two"} {
		ctx := within(t, time.Minute)
		conn, resp, err := websocket.Dial(ctx, url+path, &websocket.DialOptions{Subprotocols: []string{"echo"}})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		defer conn.CloseNow()
		if resp.Header.Get("Sec-Websocket-Protocol") != "echo" || strings.Contains(fmt.Sprint(resp.Header), refusedMark) {
			t.Errorf("%s: the handshake was answered %v", path, resp.Header)
		}
		for _, message := range []string{"one", strings.Repeat("x", 20_000), ""} {
			if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
				t.Fatal(err)
			}
			if _, got, err := conn.Read(ctx); err != nil || string(got) != "echo of "+message {
				t.Fatalf("%s: %d bytes came back as %d, %v", path, len(message), len(got), err)
			}
		}
		if err := conn.Write(ctx, websocket.MessageText, []byte("bye")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != 4017 {
			t.Errorf("%s: the connection was closed with %v", path, err)
		}
		if refused, passed := api.attempts(path); refused != 1 || passed != 2 {
			t.Errorf("%s: refused %d times and let through %d times, want 1 and 2", path, refused, passed)
		}
		waitOutcomes(t, c, "replayed", n+1)
	}
}

// TestAGRPCCallIsReplayed has a gateway before a gRPC server that refuses by
// status 401.
func TestAGRPCCallIsReplayed(t *testing.T) {
	t.Parallel()
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	i := newIssuer(t)
	api := &gate{valid: i.valid, next: func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			server.ServeHTTP(w, r)
		}
	}}
	text, url := caddyfile(t, i.source("crm"), "log\ninject_token crm h2c://"+serve(t, api))
	text = strings.Replace(text, "{{globals}}", "{{globals}}\n servers {\n protocols h1 h2c\n}", 1)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	i.revoke()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(within(t, time.Minute), new(grpc_health_v1.HealthCheckRequest))
	if err != nil || answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("the call came to %v, %v", answer, err)
	}
	waitOutcomes(t, c, "replayed", 1)
}

// TestARefusalThatWasCuredIsNoFailureOfTheUpstream has passive health checks
// that would take a refusal for one.
func TestARefusalThatWasCuredIsNoFailureOfTheUpstream(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	api := &gate{valid: i.valid}
	address := serve(t, api)
	text, url := caddyfile(t, i.source("crm"), "inject_token crm "+address+" {\n fail_duration 1m\n unhealthy_status 401\n max_fails 1\n}")
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	i.revoke()
	warm(t, url+"/x", url+"/y")
	assertNoneDown(t, c, address)
	if refused, _ := api.attempts("/x"); refused != 1 {
		t.Errorf("refused %d times, want once", refused)
	}
}

// TestTheRestOfCaddySeesTheFinalAnswerAlone asks each route twice: the first
// time the request is replayed, the second time it is not. Both answers, and
// both lines of the access log, must be the same.
func TestTheRestOfCaddySeesTheFinalAnswerAlone(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("it is well known that long texts can be compressed. ", 200)
	routes := []struct{ name, site, want string }{
		{"plain", "inject_token NAME API", "200"},
		{"handled", `inject_token NAME API {
				@gone status 410
				handle_response @gone {
					header X-Shaped "{rp.status_code} {rp.header.X-Api}"
					respond "shaped {rp.status_code} {http.inject_token.source}" 203
				}
				@refused status 401
				handle_response @refused {
					respond "handle_response saw the refusal" 500
				}
			}`, "203"},
		{"copied", `inject_token NAME API {
				@gone status 410
				handle_response @gone {
					copy_response_headers {
						include X-Api
					}
					copy_response 202
				}
				@refused status 401
				replace_status @refused 418
			}`, "202"},
		{"intercepted", `intercept {
				@gone status 410
				handle_response @gone {
					respond "intercepted {resp.status_code} {resp.header.X-Api}" 206
				}
				@refused status 401
				handle_response @refused {
					respond "intercept saw the refusal" 500
				}
			}
			inject_token NAME API`, "206"},
		{"encoded", "encode gzip\ninject_token NAME API", "200"},
		{"headers", `header {
				>X-Status {http.reverse_proxy.status_code}
				>X-Upstream {http.reverse_proxy.header.X-Api}
				-Etag
				defer
			}
			inject_token NAME API {
				header_down +X-Down {http.reverse_proxy.status_code}
				header_up X-Up once
			}`, "200"},
		{"broken", "inject_token NAME API", "502"},
		{"template", "templates\ninject_token NAME API", "200"},
		{"retried", "inject_token NAME CLOSED API {\n lb_policy round_robin\n lb_retries 1\n}", "200"},
		{"retried-body", "inject_token NAME CLOSED API {\n lb_policy round_robin\n lb_retries 1\n}", "200"},
	}
	i := newIssuer(t)
	api := &gate{valid: i.valid, next: func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Api", strings.Join(r.Header["X-Up"], ",")+"of the API")
		w.Header().Set("Etag", `"good"`)
		w.Header().Set("Content-Type", "text/html")
		switch {
		case r.URL.Query().Has("warm"):
		case r.URL.Query().Has("break"):
			panic(http.ErrAbortHandler)
		case r.URL.Query().Has("gone"):
			w.WriteHeader(http.StatusGone)
			w.(http.Flusher).Flush() // without a Content-Length, which intercept would keep
			_, _ = io.WriteString(w, "it is gone")
		default:
			_, _ = io.WriteString(w, long+string(body))
		}
	}}
	address, closed := serve(t, api), "127.0.0.1:"+itoa(harness.Port(t))
	var sources, site strings.Builder
	site.WriteString("log\nhandle_errors {\n respond \"handle_errors: {err.status_code}\"\n}\n")
	for _, route := range routes {
		sources.WriteString(i.source(route.name))
		fmt.Fprintf(&site, "handle /%s {\n%s\n}\n", route.name, strings.NewReplacer("NAME", route.name, "API", address, "CLOSED", closed).Replace(route.site))
	}
	text, url := caddyfile(t, sources.String(), site.String())
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	ask := func(name string) (*http.Response, string) {
		query := map[string]string{"handled": "?gone", "copied": "?gone", "intercepted": "?gone", "broken": "?break"}[name]
		method, body := http.MethodGet, ""
		if name == "retried-body" || name == "broken" {
			method, body = http.MethodPost, "a body"
		}
		req, err := http.NewRequest(method, url+"/"+name+query, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", "gzip") // and then it is not decompressed
		return harness.Do(t, req)
	}
	// The policy round_robin begins at the second upstream; the requests after
	// this one begin at the closed one.
	for _, route := range routes {
		if resp, body := harness.Get(t, url+"/"+route.name+"?warm"); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s was answered %d %q", route.name, resp.StatusCode, body)
		}
	}
	i.revoke()
	for _, route := range routes {
		t.Run(route.name, func(t *testing.T) {
			replayed, replayedBody := ask(route.name)
			plain, plainBody := ask(route.name)
			got, want := shown(replayed, replayedBody), shown(plain, plainBody)
			if got != want || strings.Contains(got, refusedMark) {
				t.Errorf("with a replay the answer is\n%.600s\nand without\n%.600s", got, want)
			}
			if !strings.HasPrefix(want, route.want+" ") {
				t.Errorf("the answer is %.600s", want)
			}
			if (route.name == "encoded") != (plain.Header.Get("Content-Encoding") == "gzip") {
				t.Errorf("the encoding is %q", plain.Header.Get("Content-Encoding"))
			}
			if route.name == "broken" && replayedBody != "handle_errors: 502" {
				t.Errorf("handle_errors did not answer: %q", replayedBody)
			}
			if route.name == "handled" && replayed.Header.Get("X-Shaped") != "410 of the API" {
				t.Errorf("handle_response saw %q", replayed.Header.Get("X-Shaped"))
			}
			var lines []map[string]any
			c.Eventually(20*time.Second, "the access log has both", func() bool {
				lines = accessLines(c, replayed.Request.URL.RequestURI())
				return len(lines) == 2
			})
			if a, b := fmt.Sprint(lines[0]["status"], lines[0]["size"]), fmt.Sprint(lines[1]["status"], lines[1]["size"]); a != b || !strings.HasPrefix(a, route.want) {
				t.Errorf("the access log has the status and size %s, and without a replay %s", a, b)
			}
			outcomes := []any{"replayed", "injected"}
			if got := []any{lines[0]["token_outcome"], lines[1]["token_outcome"]}; route.name != "broken" && !slices.Equal(got, outcomes) {
				t.Errorf("the outcomes are %v, want %v", got, outcomes)
			}
			if took, ok := lines[0]["duration"].(float64); !ok || took <= 0 || took > 60 {
				t.Errorf("the duration is %v", lines[0]["duration"])
			}
			if refused, _ := api.attempts("/" + route.name); refused != 1 {
				t.Errorf("refused %d times, want once", refused)
			}
		})
	}
}

// TestTheFourProvidersSurviveARevocationUnnoticed runs the README's recipes.
// Their tokens live an hour, so nothing but the API's refusal renews them.
func TestTheFourProvidersSurviveARevocationUnnoticed(t *testing.T) {
	for _, r := range recipes {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			p := provider.New(t, r.dialect)
			p.Set(func(k *provider.Knobs) { k.Lifetime, k.Rotate = time.Hour, r.rotate })
			r.replace = slices.DeleteFunc(slices.Clone(r.replace), func(s string) bool { return s == "30d" || s == "3s" })
			_, url := r.start(t, p, "")
			warm(t, url+"/data?x=1")
			before := p.Count()
			p.Revoke()
			for range 3 {
				req, err := http.NewRequest(http.MethodPost, url+"/data?x=1", strings.NewReader("an order"))
				if err != nil {
					t.Fatal(err)
				}
				if resp, body := harness.Do(t, req); resp.StatusCode != http.StatusOK {
					t.Errorf("after the revocation a caller got %d %q", resp.StatusCode, body)
				}
				if got := p.LastAPIRequest().Body; got != "an order" {
					t.Errorf("the API got the body %q", got)
				}
			}
			if n := p.Count() - before; n != 1 {
				t.Errorf("the revocation caused %d token requests", n)
			}
			if n := p.Reused(); n != 0 {
				t.Errorf("a refresh token was spent twice, %d times", n)
			}
			p.AssertStrict()
		})
	}
}
