package caddy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// cause is a way in which a token endpoint fails, and what comes of it.
type cause struct {
	name    string // of the source
	endless bool   // the endpoint does not answer, so the timeout ends it

	// The endpoint: an interception of the provider's, or another URL.
	intercept func(http.ResponseWriter, *http.Request, int) bool
	url       string
	options   string // of the source
	noSecret  bool

	permanent bool   // 502 and not tried again, else 503 and tried again
	code      string // the OAuth error code
	reason    string // what the log says; HOST is the provider's
	httpCode  float64
	pauses    []time.Duration // the least between token requests
}

var backoff = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}

func causes(t *testing.T) []cause {
	resetURL, _ := resetting(t)
	private := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(private.Close)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect of the token endpoint was followed")
	}))
	t.Cleanup(elsewhere.Close)
	refused := func(status int, code string) func(http.ResponseWriter, *http.Request, int) bool {
		return provider.Fail(status, code)
	}
	return []cause{
		{name: "silent", endless: true, intercept: hang, reason: "HOST: no complete answer in time"},
		{name: "trickling", endless: true, intercept: trickle, reason: "HOST: no complete answer in time"},
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
		{name: "reset", url: resetURL, reason: "HOST: the connection was closed before an answer came"},
		{name: "closed", url: "http://127.0.0.1:" + itoa(harness.Port(t)) + "/token", reason: "HOST: connection refused"},
		{
			name: "nameless", url: "https://provider.invalid/token", options: "transport http {\n resolvers " + nameServer(t) + "\n}",
			reason: "HOST: the name does not resolve",
		},
		{name: "untrusted", url: private.URL + "/token", reason: "HOST: its certificate is signed by an authority that is not trusted here"},
		{name: "plain", url: strings.Replace(plain.URL, "http:", "https:", 1) + "/token", reason: "HOST: it does not speak TLS"},
		{name: "gateway", intercept: refused(503, "invalid_request"), code: "invalid_request", reason: "HTTP status 503, invalid_request", httpCode: 503},
		{name: "forbidden", intercept: refused(403, ""), reason: "the answer is empty, HTTP status 403", httpCode: 403},

		{name: "client", permanent: true, intercept: refused(401, "invalid_client"), code: "invalid_client", reason: "HTTP status 401, invalid_client", httpCode: 401},
		{name: "unauthorized", permanent: true, intercept: refused(400, "unauthorized_client"), code: "unauthorized_client", reason: "HTTP status 400, unauthorized_client", httpCode: 400},
		{name: "scope", permanent: true, intercept: refused(400, "invalid_scope"), code: "invalid_scope", reason: "HTTP status 400, invalid_scope", httpCode: 400},
		{name: "secretless", permanent: true, noSecret: true, reason: "client_secret: {file.DIR/no-such-file}"},
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
			timeout 1s
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
	began := time.Now()

	t.Run("callers", func(t *testing.T) {
		for _, f := range all {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				f.watch(t, c, providers[f.name], url+"/"+f.name, began)
				assertNoneDown(t, c, providers[f.name].API, seconds[f.name])
			})
		}
		t.Run("healthy", func(t *testing.T) {
			t.Parallel()
			for time.Since(began) < 4*time.Second {
				if got := ask(t, url+"/healthy"); got.status != http.StatusOK {
					t.Fatalf("a source with a valid token was answered %d %q", got.status, got.body)
				}
				time.Sleep(50 * time.Millisecond)
			}
			if n := providers["healthy"].Count(); n != 1 {
				t.Errorf("%d token requests", n)
			}
		})
	})
	for _, f := range all {
		providers[f.name].Set(func(k *provider.Knobs) { k.Intercept = nil })
	}
	t.Run("recovery", func(t *testing.T) {
		for _, f := range all {
			if f.url == "" && !f.permanent {
				t.Run(f.name, func(t *testing.T) {
					t.Parallel()
					// Nobody asks before the token is there.
					c.Eventually(40*time.Second, "a token by itself", func() bool { return c.LogCount("token_sources."+f.name, "token obtained") == 1 })
					if got := ask(t, url+"/"+f.name); got.status != http.StatusOK {
						t.Errorf("answered %d %q when the provider was back", got.status, got.body)
					}
					providers[f.name].AssertStrict()
				})
			}
		}
	})
}

// watch is a caller who asks again and again while the provider fails.
func (f cause) watch(t *testing.T, c *harness.Caddy, p *provider.Provider, url string, began time.Time) {
	status, sentence := http.StatusServiceUnavailable, noToken(f.name)
	if f.permanent {
		status, sentence = http.StatusBadGateway, rejected(f.name)
	}
	for asked := 0; asked < 5 || time.Since(began) < 4*time.Second; asked++ {
		got := ask(t, url)
		got.assertRefused(t, status, sentence, f.code)
		// A token request takes a second at most, a caller's patience is 50.
		if got.took > 15*time.Second {
			t.Errorf("a caller waited %v", got.took)
		}
		time.Sleep(30 * time.Millisecond)
	}
	f.assertPauses(t, p, time.Since(began))
	f.assertLog(t, c, p)
	if n := len(p.APIRequests()); n != 0 {
		t.Errorf("%d requests came to the API without a token", n)
	}
}

// assertPauses wants one token request of a source that must not be tried
// again, and growing pauses of the others, however many callers ask.
func (f cause) assertPauses(t *testing.T, p *provider.Provider, elapsed time.Duration) {
	t.Helper()
	requests := p.Requests()
	switch {
	case f.url != "": // the log counts
		return
	case f.noSecret && len(requests) != 0:
		t.Errorf("%d token requests without a secret", len(requests))
		return
	case f.noSecret:
		return
	case f.permanent && len(requests) != 1:
		t.Errorf("%d token requests although the first was rejected for good", len(requests))
		return
	case f.permanent:
		return
	}
	if len(requests) < 2 {
		t.Errorf("%d token requests in %v: it was not tried again", len(requests), elapsed)
	}
	for i := range len(requests) - 1 {
		if pause, least := requests[i+1].At.Sub(requests[i].At), f.pause(i); pause < least {
			t.Errorf("%v between token requests %d and %d, want %v at least", pause, i+1, i+2, least)
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
		t.Fatal("the log says nothing")
	}
	for i, line := range lines {
		if line["level"] != "error" || line["msg"] != "no token" || line["provider"] != host {
			t.Errorf("the log says: %v", line)
		}
		if reason, _ := line["reason"].(string); reason != want && !(f.noSecret && strings.Contains(reason, want)) {
			t.Errorf("the log's reason is %q, want %q", reason, want)
		}
		if line["failures"] != float64(i+1) {
			t.Errorf("line %d of the log counts %v failures", i+1, line["failures"])
		}
		if code, _ := line["code"].(string); code != f.code {
			t.Errorf("the log's code is %q, want %q", code, f.code)
		}
		if status, _ := line["status"].(float64); status != f.httpCode {
			t.Errorf("the log's status is %v, want %v", status, f.httpCode)
		}
		if next, _ := line["next"].(string); f.permanent != strings.HasPrefix(next, "not tried again") {
			t.Errorf("the log says of what comes next: %v", line["next"])
		}
	}
	if f.permanent && len(lines) != 1 {
		t.Errorf("%d failures in the log although the first was final", len(lines))
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
