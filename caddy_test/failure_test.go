package caddy_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// cause is a way in which a token endpoint fails, and what comes of it.
type cause struct {
	name string // of the source

	// The endpoint: an interception of the provider's, or another URL.
	intercept func(http.ResponseWriter, *http.Request, int) bool
	url       string
	options   string // of the source
	noSecret  bool
	asked     *atomic.Int64 // connections to the other URL; nil: not known

	permanent bool   // 502 and not tried again, else 503 and tried again
	code      string // the OAuth error code
	reason    string // what the log says; HOST is the provider's
	httpCode  float64
	pauses    []time.Duration // the least between token requests
}

var backoff = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}

func causes(t *testing.T) []cause {
	resetURL, resets := resetting(t)
	private, plain := httptest.NewUnstartedServer(http.NotFoundHandler()), httptest.NewUnstartedServer(http.NotFoundHandler())
	askedPrivate, askedPlain := countConnections(private), countConnections(plain)
	private.Config.ErrorLog = log.New(io.Discard, "", 0)
	private.StartTLS()
	t.Cleanup(private.Close)
	plain.Start()
	t.Cleanup(plain.Close)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect of the token endpoint was followed")
	}))
	t.Cleanup(elsewhere.Close)
	refused := func(status int, code string) func(http.ResponseWriter, *http.Request, int) bool {
		return provider.Fail(status, code)
	}
	return []cause{
		{name: "silent", intercept: hang, options: "timeout 1s", reason: "HOST: no complete answer in time"},
		{name: "trickling", intercept: trickle, options: "timeout 1s", reason: "HOST: no complete answer in time"},
		{
			name:      "huge",
			intercept: say(200, nil, `{"access_token":"`+strings.Repeat("x", 2<<20)+`"}`),
			reason:    "the answer is larger than 1 MiB, HTTP status 200", httpCode: 200,
		},
		{name: "html", intercept: say(200, nil, "<html><body>Please log in</body></html>"), reason: "the answer is HTML, not JSON, HTTP status 200", httpCode: 200},
		{name: "empty", intercept: say(200, nil, ""), reason: "the answer is empty, HTTP status 200", httpCode: 200},
		{
			name:      "redirected",
			intercept: say(302, http.Header{"Location": {elsewhere.URL + "/login?next=x"}}, ""),
			reason: "a redirect to " + strings.TrimPrefix(elsewhere.URL, "http://") +
				", which is not followed; write the final URL as token_url, HTTP status 302",
			httpCode: 302,
		},
		{name: "broken", intercept: refused(500, ""), reason: "the answer is empty, HTTP status 500", httpCode: 500},
		{
			name:      "busy",
			intercept: say(429, http.Header{"Retry-After": {"3"}}, `{"error":"slow_down"}`),
			code:      "slow_down", reason: "HTTP status 429, slow_down", httpCode: 429,
			pauses: []time.Duration{3 * time.Second, 3 * time.Second, 3 * time.Second, 3 * time.Second, 3 * time.Second},
		},
		{name: "reset", url: resetURL, asked: resets, reason: "HOST: the connection was closed before an answer came"},
		{name: "closed", url: "http://127.0.0.1:" + itoa(harness.Port(t)) + "/token", reason: "HOST: connection refused"},
		{
			name: "nameless", url: "https://provider.invalid/token", options: "transport http {\n resolvers " + nameServer(t) + "\n}",
			reason: "HOST: the name does not resolve",
		},
		{name: "untrusted", url: private.URL + "/token", asked: askedPrivate, reason: "HOST: its certificate is signed by an authority that is not trusted here"},
		{name: "plain", url: strings.Replace(plain.URL, "http:", "https:", 1) + "/token", asked: askedPlain, reason: "HOST: it does not speak TLS"},
		{name: "gateway", intercept: refused(503, "invalid_request"), code: "invalid_request", reason: "HTTP status 503, invalid_request", httpCode: 503},
		{name: "forbidden", intercept: refused(403, ""), reason: "the answer is empty, HTTP status 403", httpCode: 403},

		{name: "client", permanent: true, intercept: refused(401, "invalid_client"), code: "invalid_client", reason: "HTTP status 401, invalid_client", httpCode: 401},
		{name: "unauthorized", permanent: true, intercept: refused(400, "unauthorized_client"), code: "unauthorized_client", reason: "HTTP status 400, unauthorized_client", httpCode: 400},
		{name: "scope", permanent: true, intercept: refused(400, "invalid_scope"), code: "invalid_scope", reason: "HTTP status 400, invalid_scope", httpCode: 400},
		{name: "secretless", permanent: true, noSecret: true, reason: "client_secret: the placeholder {file.DIR/no-such-file} is empty or cannot be read"},
	}
}

// TestEachFailureOfTheProviderIsToldToCallersAndOnlyToThem has a source for
// each way to fail, all of one Caddy, and a healthy one that must not notice.
func TestEachFailureOfTheProviderIsToldToCallersAndOnlyToThem(t *testing.T) {
	t.Parallel()
	all := causes(t)
	providers := make(map[string]*provider.Provider)
	seconds := make(map[string]string)
	var sources, sites strings.Builder
	for _, f := range append(all, cause{name: "healthy"}) {
		p := provider.New(t, provider.Dialect{})
		p.Set(func(k *provider.Knobs) { k.Intercept = f.intercept })
		providers[f.name], seconds[f.name] = p, secondUpstream(t, p)
		url, secret := p.TokenURL(), "secret"
		if f.url != "" {
			url = f.url
		}
		if f.noSecret {
			secret = "no-such-file"
		}
		fmt.Fprintf(&sources, `source %s {
			grant client_credentials
			token_url %s
			client_id %s
			client_secret {file.{{dir}}/%s}
			%s
		}
		`, f.name, url, provider.ClientID, secret, f.options)
		fmt.Fprintf(&sites, `handle /%s {
			inject_token %[1]s %s %s {
				lb_retries 3
				fail_duration 5m
				wait 50s
			}
		}
		`, f.name, p.API, seconds[f.name])
	}
	text, url := caddyfile(t, sources.String(), sites.String())
	c := harness.Start(t, text, withSecret(provider.ClientSecret))

	// All at once, not as parallel tests, of which only some run at a time: the
	// pauses between token requests grow meanwhile.
	var callers sync.WaitGroup
	for _, f := range all {
		callers.Go(func() { f.watch(t, c, providers[f.name], url+"/"+f.name) })
	}
	callers.Go(func() {
		for began := time.Now(); time.Since(began) < 3*time.Second && !t.Failed(); time.Sleep(50 * time.Millisecond) {
			if got := tryToAsk(url + "/healthy"); got.status != http.StatusOK {
				t.Errorf("a source with a valid token was answered %d %q", got.status, got.body)
			}
		}
	})
	callers.Wait()
	if n := providers["healthy"].Count(); n != 1 {
		t.Errorf("%d token requests of a source with a valid token", n)
	}
	for _, f := range all {
		assertNoneDown(t, c, providers[f.name].API, seconds[f.name])
		providers[f.name].Set(func(k *provider.Knobs) { k.Intercept = nil })
	}
	for _, f := range all {
		if f.url != "" || f.permanent {
			continue
		}
		// Nobody asks before the token is there.
		c.Eventually(60*time.Second, f.name+" has a token by itself", func() bool { return c.LogCount("token_sources."+f.name, "token obtained") == 1 })
		if got := ask(t, url+"/"+f.name); got.status != http.StatusOK {
			t.Errorf("%s: answered %d %q when the provider was back", f.name, got.status, got.body)
		}
		providers[f.name].AssertStrict()
	}
	for _, f := range all {
		if f.permanent { // nothing has changed but the provider
			ask(t, url+"/"+f.name).assertRefused(t, http.StatusBadGateway, f.rejected(), f.code)
			f.assertPauses(t, c, providers[f.name])
		}
	}
}

// countConnections counts those that a server gets.
func countConnections(s *httptest.Server) *atomic.Int64 {
	n := new(atomic.Int64)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			n.Add(1)
		}
	}
	return n
}

func (f cause) rejected() string {
	if f.noSecret {
		return "There is no token for this API: the configuration of the token source " + f.name + " does not work, and an operator must see to that."
	}
	return rejected(f.name)
}

// watch is a caller who asks again and again while the provider fails. Most of
// its requests find a pause, and are answered at once.
func (f cause) watch(t *testing.T, c *harness.Caddy, p *provider.Provider, url string) {
	status, sentence := http.StatusServiceUnavailable, noToken(f.name)
	if f.permanent {
		status, sentence = http.StatusBadGateway, f.rejected()
	}
	soonest := time.Minute
	for began := time.Now(); time.Since(began) < 2*time.Second || !f.permanent && f.tries(c, p) < 2; time.Sleep(50 * time.Millisecond) {
		got := tryToAsk(url)
		soonest = min(soonest, got.took)
		if !got.isRefused(t, status, sentence, f.code) {
			return
		}
		// A token request takes ten seconds at most, a caller's patience is 50.
		if got.took > 15*time.Second {
			t.Errorf("%s: a caller waited %v", f.name, got.took)
		}
		if time.Since(began) > 30*time.Second {
			t.Errorf("%s: it is not tried again", f.name)
			return
		}
	}
	if soonest > 500*time.Millisecond {
		t.Errorf("%s: no caller was answered at once, the soonest after %v", f.name, soonest)
	}
	f.assertPauses(t, c, p)
	f.assertLog(t, c, p)
	if n := len(p.APIRequests()); n != 0 {
		t.Errorf("%s: %d requests came to the API without a token", f.name, n)
	}
}

// tries returns how many token requests there were.
func (f cause) tries(c *harness.Caddy, p *provider.Provider) int {
	if f.url != "" {
		return c.LogCount("token_sources."+f.name, "no token")
	}
	return p.Count()
}

// assertPauses wants one token request of a source that must not be tried
// again, and growing pauses of the others, however many callers ask.
func (f cause) assertPauses(t *testing.T, c *harness.Caddy, p *provider.Provider) {
	t.Helper()
	requests := p.Requests()
	switch {
	case f.asked != nil:
		if asked, told := int(f.asked.Load()), len(sourceLog(c, f.name)); asked > told+1 { // the last may not be told yet
			t.Errorf("%s: %d connections for %d token requests in the log", f.name, asked, told)
		}
		return
	case f.url != "": // the log counts
		return
	case f.noSecret && len(requests) != 0:
		t.Errorf("%s: %d token requests without a secret", f.name, len(requests))
		return
	case f.noSecret:
		return
	case f.permanent && len(requests) != 1:
		t.Errorf("%s: %d token requests although the first was rejected for good", f.name, len(requests))
		return
	case f.permanent:
		return
	}
	for i := range len(requests) - 1 {
		if pause, least := requests[i+1].At.Sub(requests[i].At), f.pause(i); pause < least {
			t.Errorf("%s: %v between token requests %d and %d, want %v at least", f.name, pause, i+1, i+2, least)
		}
	}
}

func (f cause) pause(i int) time.Duration {
	pauses := f.pauses
	if pauses == nil {
		pauses = backoff
	}
	return pauses[min(i, len(pauses)-1)]
}

// assertLog wants a line for each token request, which says why.
func (f cause) assertLog(t *testing.T, c *harness.Caddy, p *provider.Provider) {
	t.Helper()
	var host string
	if f.url != "" {
		host = f.url
	} else {
		host = p.TokenURL()
	}
	host = strings.TrimSuffix(host[strings.Index(host, "://")+3:], "/token")
	want := strings.NewReplacer("HOST", host, "DIR", c.Dir).Replace(f.reason)
	lines := sourceLog(c, f.name)
	if len(lines) == 0 {
		t.Errorf("%s: the log says nothing", f.name)
	}
	for i, line := range lines {
		if line["level"] != "error" || line["msg"] != "no token" || line["provider"] != host {
			t.Errorf("%s: the log says: %v", f.name, line)
		}
		if reason, _ := line["reason"].(string); reason != want {
			t.Errorf("%s: the log's reason is %q, want %q", f.name, reason, want)
		}
		if line["failures"] != float64(i+1) {
			t.Errorf("%s: line %d of the log counts %v failures", f.name, i+1, line["failures"])
		}
		if code, _ := line["code"].(string); code != f.code {
			t.Errorf("%s: the log's code is %q, want %q", f.name, code, f.code)
		}
		if status, _ := line["status"].(float64); status != f.httpCode {
			t.Errorf("%s: the log's status is %v, want %v", f.name, status, f.httpCode)
		}
		if until, _ := line["until"].(string); f.permanent != strings.HasPrefix(until, "not tried again") {
			t.Errorf("%s: the log says of what comes next: %v", f.name, line["until"])
		}
	}
	for i := range len(lines) - 1 {
		// A line is written a moment after the pause has begun.
		pause := time.Duration((lines[i+1]["ts"].(float64) - lines[i]["ts"].(float64)) * float64(time.Second))
		if least := f.pause(i) / 2; pause < least {
			t.Errorf("%s: %v between the failures %d and %d in the log", f.name, pause, i+1, i+2)
		}
	}
	if f.permanent && len(lines) != 1 {
		t.Errorf("%s: %d failures in the log although the first was final", f.name, len(lines))
	}
}

// TestTheOthersGetTheTokenWhenTheFirstCallerHangsUp leaves while the token
// request is under way that all of them wait for.
func TestTheOthersGetTheTokenWhenTheFirstCallerHangsUp(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	release := make(chan struct{})
	p.Set(func(k *provider.Knobs) {
		k.Intercept = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
			select {
			case <-release:
				return false
			case <-r.Context().Done():
				return true
			}
		}
	})
	text, url := caddyfile(t, crmSource(p, "timeout 60s"), "inject_token crm "+p.API+" {\n fail_duration 5m\n wait 60s\n}")
	c := harness.Start(t, text, withSecret(provider.ClientSecret))

	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/first", nil)
		_, err := http.DefaultClient.Do(req)
		gone <- err
	}()
	c.Eventually(20*time.Second, "the first caller waits", func() bool { return p.Count() == 1 && underWay(t, c) == 1 })

	const others = 20
	statuses := make(chan string, others)
	for range others {
		go func() {
			resp, err := http.Get(url + "/other")
			if err != nil {
				statuses <- err.Error()
				return
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			statuses <- resp.Status + " " + string(body)
		}()
	}
	c.Eventually(20*time.Second, "the others wait as well", func() bool { return underWay(t, c) == others+1 })
	hangUp()
	if err := <-gone; err == nil {
		t.Fatal("the first caller got an answer")
	}
	c.Eventually(20*time.Second, "Caddy sees that the first caller is gone", func() bool { return underWay(t, c) == others })
	close(release)
	for range others {
		if got := <-statuses; got != "200 OK hello GET /other" {
			t.Errorf("one of the others got %s", got)
		}
	}
	if n := p.Count(); n != 1 {
		t.Errorf("%d token requests", n)
	}
	for _, r := range p.APIRequests() {
		if r.URL.Path == "/first" {
			t.Error("the request of the caller who left was sent all the same")
		}
	}
	assertNoneDown(t, c, p.API)
}

// TestAFailureThatPassesCostsOneMoreTokenRequest answers 500 once and then as
// it should; nobody asks.
func TestAFailureThatPassesCostsOneMoreTokenRequest(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) {
		fail := provider.Fail(http.StatusInternalServerError, "server_error")
		k.Intercept = func(w http.ResponseWriter, r *http.Request, n int) bool { return n == 1 && fail(w, r, n) }
	})
	text, url := caddyfile(t, crmSource(p, ""), "inject_token crm "+p.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	c.Eventually(30*time.Second, "a token by itself", func() bool { return c.LogCount("token_sources.crm", "token obtained") == 1 })
	if got := ask(t, url); got.status != http.StatusOK {
		t.Errorf("answered %d %q", got.status, got.body)
	}
	if n := p.Count(); n != 2 {
		t.Errorf("%d token requests", n)
	}
	if n := c.LogCount("token_sources.crm", "no token"); n != 1 {
		t.Errorf("%d failures in the log", n)
	}
}

// TestACallerWaitsNoLongerThanItMay has a provider that never answers, and
// callers who are more and less patient than a token request.
func TestACallerWaitsNoLongerThanItMay(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Intercept = hang })
	second := secondUpstream(t, p)
	text, url := caddyfile(t, crmSource(p, "timeout 55s"), fmt.Sprintf(`inject_token crm %s %s {
		lb_retries 3
		fail_duration 5m
		wait 1s
	}`, p.API, second))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	const callers = 10
	answers := make(chan answered, callers)
	for range callers {
		go func() { answers <- tryToAsk(url) }()
	}
	for range callers {
		got := <-answers
		got.assertRefused(t, http.StatusGatewayTimeout, notInTime("crm"), "wait")
		if got.took < time.Second || got.took > 20*time.Second {
			t.Errorf("a caller who may wait a second waited %v", got.took)
		}
	}
	if n := p.Count(); n != 1 {
		t.Errorf("%d token requests", n)
	}
	if n := len(p.APIRequests()); n != 0 {
		t.Errorf("%d requests came to the API without a token", n)
	}
	assertNoneDown(t, c, p.API, second)
}

// TestAnUpstreamThatIsDownIsStillMarkedDown holds what the other tests rely
// on: that the admin API counts failures where there are some.
func TestAnUpstreamThatIsDownIsStillMarkedDown(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	dead := "127.0.0.1:" + itoa(harness.Port(t))
	text, url := caddyfile(t, crmSource(p, ""), fmt.Sprintf(`inject_token crm %s %s {
		lb_policy first
		lb_retries 3
		fail_duration 5m
	}`, dead, p.API))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	if got := ask(t, url); got.status != http.StatusOK {
		t.Errorf("answered %d %q although one upstream lives", got.status, got.body)
	}
	for _, upstream := range upstreams(t, c) {
		if want := map[bool]int{true: 1, false: 0}[upstream.Address == dead]; upstream.Fails != want {
			t.Errorf("the upstream %s counts %d failures, want %d", upstream.Address, upstream.Fails, want)
		}
	}
}

// accessLog returns the lines of the access log for a path, once there are n.
func accessLog(t *testing.T, c *harness.Caddy, path string, n int) []map[string]any {
	t.Helper()
	var found []map[string]any
	c.Eventually(10*time.Second, "the access log has "+path, func() bool {
		found = nil
		for _, line := range c.LogLines() {
			request, _ := line["request"].(map[string]any)
			logger, _ := line["logger"].(string)
			if strings.HasPrefix(logger, "http.log.access") && request["uri"] == path {
				found = append(found, line)
			}
		}
		return len(found) >= n
	})
	return found
}

// TestWithoutATokenARequestMayPass has an upstream that serves some without
// one. What a caller has put in the token's place does not pass.
func TestWithoutATokenARequestMayPass(t *testing.T) {
	t.Parallel()
	down, rejects := provider.New(t, provider.Dialect{}), provider.New(t, provider.Dialect{})
	down.Set(func(k *provider.Knobs) { k.Intercept = provider.Fail(503, "") })
	rejects.Set(func(k *provider.Knobs) { k.Secret = "another" })
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %q", r.Header["Authorization"], r.Method)
	}))
	t.Cleanup(api.Close)
	site := "log\n"
	for _, source := range []string{"down", "rejects"} {
		site += fmt.Sprintf("handle /%s {\n inject_token %[1]s %s {\n unavailable pass\n fail_duration 5m\n}\n}\n", source, api.URL)
	}
	text, url := caddyfile(t, strings.Replace(crmSource(down, ""), "crm", "down", 1)+"\n"+strings.Replace(crmSource(rejects, ""), "crm", "rejects", 1), site)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	for _, source := range []string{"down", "rejects"} {
		req, err := http.NewRequest(http.MethodPost, url+"/"+source, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer of-the-caller")
		resp, body := harness.Do(t, req)
		if resp.StatusCode != http.StatusOK || body != `[] "POST"` {
			t.Errorf("%s: answered %d %q", source, resp.StatusCode, body)
		}
		if line := accessLog(t, c, "/"+source, 1)[0]; line["token_source"] != source || line["token_outcome"] != "passed" {
			t.Errorf("the access log says: %v %v", line["token_source"], line["token_outcome"])
		}
	}
	assertNoneDown(t, c, api.URL)
}

// TestHandleResponseShapesOurOwnAnswers gives callers the words of the site.
func TestHandleResponseShapesOurOwnAnswers(t *testing.T) {
	t.Parallel()
	down, rejects, silent := provider.New(t, provider.Dialect{}), provider.New(t, provider.Dialect{}), provider.New(t, provider.Dialect{})
	down.Set(func(k *provider.Knobs) { k.Intercept = provider.Fail(503, "") })
	rejects.Set(func(k *provider.Knobs) { k.Secret = "another" })
	silent.Set(func(k *provider.Knobs) { k.Intercept = hang })
	sources, site := "", "log\n"
	for _, s := range []struct {
		name string
		p    *provider.Provider
	}{{"down", down}, {"rejects", rejects}, {"silent", silent}} {
		sources += strings.Replace(crmSource(s.p, "timeout 50s"), "crm", s.name, 1) + "\n"
		site += fmt.Sprintf(`handle /%s {
			inject_token %[1]s %s {
				wait 500ms
				@ours header Proxy-Status inject_token*
				handle_response @ours {
					header X-Outcome {http.inject_token.source}-{http.inject_token.outcome}
					respond "Sorry: {http.reverse_proxy.status_code}." 599
				}
			}
		}
		`, s.name, s.p.API)
	}
	text, url := caddyfile(t, sources, site)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	// A caller of a source whose first token request is still under way waits.
	c.Eventually(20*time.Second, "both are known to fail", func() bool {
		return c.LogCount("token_sources.down", "no token") > 0 && c.LogCount("token_sources.rejects", "no token") > 0
	})
	for _, want := range [][2]string{{"down", "503"}, {"rejects", "502"}, {"silent", "504"}} {
		got := ask(t, url+"/"+want[0])
		if got.status != 599 || got.body != "Sorry: "+want[1]+"." {
			t.Errorf("%s: answered %d %q, want the site's words and %s", want[0], got.status, got.body, want[1])
		}
		if outcome := got.header.Get("X-Outcome"); outcome != want[0]+"-failed" {
			t.Errorf("the placeholders say %q", outcome)
		}
		if line := accessLog(t, c, "/"+want[0], 1)[0]; line["token_source"] != want[0] || line["token_outcome"] != "failed" {
			t.Errorf("the access log says: %v %v", line["token_source"], line["token_outcome"])
		}
	}
}

// TestACorrectedSecretFileHealsWithinTenSeconds corrects a file while callers
// ask. Until then each of them is told at once, and no provider is asked: it
// would not answer.
func TestHandleErrorsDoesNotSeeOurOwnAnswersAndUnhealthyStatusDoes(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Intercept = provider.Fail(http.StatusUnauthorized, "invalid_client") })
	text, url := caddyfile(t, crmSource(p, ""), `inject_token crm `+p.API+` {
		fail_duration 5m
		unhealthy_status 502
	}
	handle_errors {
		respond "an error of {err.status_code}"
	}`)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	if got := ask(t, url); got.status != http.StatusBadGateway || strings.Contains(got.body, "an error of") {
		t.Errorf("answered %d %q", got.status, got.body)
	}
	if states := upstreams(t, c); len(states) != 1 || states[0].Fails != 1 {
		t.Errorf("the upstreams are %+v", states)
	}
}

// TestSecretsOfSystemdCredentialsAreRead has the folder in a variable, as
// systemd does.
func TestSecretsOfSystemdCredentialsAreRead(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	folder := t.TempDir()
	harness.WriteFile(t, folder, "crm", provider.ClientSecret+"\n")
	source := strings.Replace(crmSource(p, ""), "{file.{{dir}}/secret}", "{file.{$CREDENTIALS_DIRECTORY}/crm}", 1)
	text, url := caddyfile(t, source, "inject_token crm "+p.API)
	harness.Start(t, text, harness.Env("CREDENTIALS_DIRECTORY="+folder))
	if got := ask(t, url); got.status != http.StatusOK {
		t.Errorf("answered %d %q", got.status, got.body)
	}
}

func TestACorrectedSecretFileHealsWithinTenSeconds(t *testing.T) {
	for name, before := range map[string]string{"wrong": "wrong-secret", "missing": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := provider.New(t, provider.Dialect{})
			text, url := caddyfile(t, crmSource(p, ""), "inject_token crm "+p.API+" {\n wait 50s\n fail_duration 5m\n}")
			options := []harness.Option{}
			code, expected, sentence := "", 1, cause{name: "crm", noSecret: true}.rejected()
			if before != "" {
				options = append(options, withSecret(before))
				code, expected, sentence = "invalid_client", 2, rejected("crm")
			}
			c := harness.Start(t, text, options...)
			c.WaitLog("not tried again")
			p.Set(func(k *provider.Knobs) { k.Intercept = hang })
			for range 20 {
				got := ask(t, url)
				got.assertRefused(t, http.StatusBadGateway, sentence, code)
				time.Sleep(20 * time.Millisecond)
			}
			p.Set(func(k *provider.Knobs) { k.Intercept = nil })
			c.Write("secret", provider.ClientSecret+"\n")
			corrected := time.Now()
			for {
				got := ask(t, url)
				if got.status == http.StatusOK {
					break
				}
				got.assertRefused(t, http.StatusBadGateway, sentence, code)
				// Ten seconds, and some for a slow machine.
				if time.Since(corrected) > 13*time.Second {
					t.Fatal("not healed")
				}
				time.Sleep(20 * time.Millisecond)
			}
			if n := p.Count(); n != expected {
				t.Errorf("%d token requests, want %d", n, expected)
			}
			assertNoneDown(t, c, p.API)
			p.AssertStrict()
		})
	}
}

// TestACallerWhoBeganATokenRequestMayLeave has callers who ask where nobody
// but a caller makes the source ask again: its secret was wrong. The token
// request goes through a transport of Caddy's that would find the upstream in
// that caller's context, and must not.
func TestACallerWhoBeganATokenRequestMayLeave(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	text, url := caddyfile(t, crmSource(p, "timeout 50s\n transport http {\n dial_timeout 5s\n}"), "inject_token crm "+p.API+" {\n wait 50s\n}")
	c := harness.Start(t, text, withSecret("wrong-secret"))
	c.WaitLog("not tried again")
	release := make(chan struct{})
	p.Set(func(k *provider.Knobs) {
		k.Intercept = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
			select {
			case <-release:
				return false
			case <-r.Context().Done():
				return true
			}
		}
	})
	c.Write("secret", provider.ClientSecret)

	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() { // the only caller there is, until the provider is asked
		defer close(gone)
		for ctx.Err() == nil {
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	c.Eventually(30*time.Second, "the provider is asked again", func() bool { return p.Count() == 2 && underWay(t, c) == 1 })
	other := make(chan answered, 1)
	go func() { other <- tryToAsk(url + "/other") }()
	c.Eventually(20*time.Second, "another caller waits", func() bool { return underWay(t, c) == 2 })
	hangUp()
	<-gone
	c.Eventually(20*time.Second, "Caddy sees that the first is gone", func() bool { return underWay(t, c) == 1 })
	close(release)
	if got := <-other; got.status != http.StatusOK {
		t.Errorf("the other caller got %d %q", got.status, got.body)
	}
	if n := p.Count(); n != 2 {
		t.Errorf("%d token requests", n)
	}
	for _, r := range p.APIRequests() {
		if r.Method != http.MethodGet || r.URL.Path == "/token" {
			t.Errorf("the upstream got %s %s", r.Method, r.URL.Path)
		}
	}
}

// TestTheShortestOfTheTimesDecides has a provider that never answers, and three
// who may wait: the request, reverse_proxy and the caller. The status tells whose
// time it was.
func TestTheShortestOfTheTimesDecides(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Intercept = hang })
	for _, c := range []struct {
		name, options string
		patience      time.Duration // of the caller; 0: enough
		status        int
		time          string
	}{
		{"wait", "wait 1s\n lb_try_duration 20s", 0, http.StatusGatewayTimeout, "wait"},
		{"lb_try_duration", "wait 20s\n lb_try_duration 1s", 0, http.StatusServiceUnavailable, "lb_try_duration"},
		{"the caller", "wait 20s\n lb_try_duration 20s", time.Second, 499, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text, url := caddyfile(t, crmSource(p, "timeout 55s"), "log\n inject_token crm "+p.API+" {\n"+c.options+"\n}")
			caddy := harness.Start(t, text, withSecret(provider.ClientSecret))
			client := &http.Client{Timeout: cmp.Or(c.patience, time.Minute)}
			began := time.Now()
			resp, err := client.Get(url + "/waits")
			if took := time.Since(began); took < 900*time.Millisecond || took > 15*time.Second {
				t.Errorf("it took %v", took)
			}
			if c.patience == 0 {
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got := resp.Header.Get("Proxy-Status"); resp.StatusCode != c.status || !strings.HasSuffix(got, `details="`+c.time+`"`) {
					t.Errorf("answered %d, Proxy-Status %q", resp.StatusCode, got)
				}
			} else if err == nil {
				t.Fatalf("a caller who left got %d", resp.StatusCode)
			}
			caddy.Eventually(20*time.Second, "the access log has it", func() bool {
				return slices.ContainsFunc(caddy.LogLines(), func(line map[string]any) bool {
					return line["msg"] == "handled request" && line["status"] == float64(c.status) && line["token_outcome"] == "failed"
				})
			})
		})
	}
}
