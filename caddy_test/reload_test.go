package caddy_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// withSources is a configuration with these sources and sites.
func withSources(sources, sites string) string {
	return "{\n{{globals}}\ntoken_sources {\n" + sources + "\n}\n}\n" + sites
}

// site is one at this address. The idle connections to its API are soon
// closed, for those who count goroutines.
func site(url, api, more string) string {
	return fmt.Sprintf("%s {\nbind 127.0.0.1\n%s\ninject_token crm %s {\ntransport http {\nkeepalive 1s\n}\n}\n}\n", url, more, api)
}

// freeURL is an address that nobody listens at.
func freeURL(t *testing.T) string { return "http://127.0.0.1:" + itoa(harness.Port(t)) }

// TestFiftyReloadsUnderLoadFailNobody is not parallel: it counts goroutines.
func TestFiftyReloadsUnderLoadFailNobody(t *testing.T) {
	p := provider.New(t, provider.Dialect{})
	url, others := freeURL(t), []string{freeURL(t), freeURL(t), freeURL(t)}
	source := crmSource(p, "")
	version := func(n int, sources, sites string) string {
		for _, other := range others[:n%3] { // sites come and go
			sites += site(other, p.API, "")
		}
		return withSources(source+"\n"+sources, sites+site(url, p.API, "header X-Reload "+itoa(n)))
	}
	another := strings.TrimSuffix(strings.Replace(source, "source crm", "source zzz", 1), "}")
	wrong := []struct{ config, says string }{
		{version(1, "", others[2]+" {\nbind 127.0.0.1\ninject_tokn crm "+p.API+"\n}\n"), "unrecognized directive"},
		{version(1, "", others[2]+" {\nbind 127.0.0.1\ninject_token crn "+p.API+"\n}\n"), "did you mean crm"},
		{
			version(1, "", others[2]+" {\nbind 127.0.0.1\nreverse_proxy "+p.API+" {\ntransport inject_token crn\n}\n}\n"),
			"did you mean crm",
		},
		{
			version(1, "", strings.Replace(others[2], "http:", "https:", 1)+" {\nbind 127.0.0.1\ntls {{dir}}/missing.pem {{dir}}/missing.key\n}\n"),
			"missing.pem",
		},
		{version(1, another+"transport http {\ntls_client_auth {{dir}}/missing.pem {{dir}}/missing.key\n}\n}", ""), "source zzz"},
	}
	c := harness.Start(t, version(0, "", ""), withSecret(provider.ClientSecret))
	warm := startLoad(t, url+"/warm", 100)
	c.Eventually(30*time.Second, "requests are served", func() bool { return len(warm.all()) > 50 && firstServed(warm.all()) != nil })
	warm.end()
	before := settled(t, c)

	l := startReloadLoad(t, url+"/load", 100)
	current, refused := 0, 0
	for n := 1; n <= 50; n++ {
		if n%5 == 0 {
			w := wrong[refused%len(wrong)]
			refused++
			if err := c.Reload(w.config); err == nil || !strings.Contains(err.Error(), w.says) {
				t.Fatalf("a wrong configuration, of which is to be said %q: %v", w.says, err)
			}
		} else if err := c.Reload(version(n, "", "")); err != nil {
			t.Fatal(err)
		} else {
			current = n
		}
		// The next one comes when some requests have been served by this one.
		asked := len(l.all())
		c.Eventually(30*time.Second, "requests are served with configuration "+itoa(current), func() bool {
			served := 0
			for _, a := range l.all()[asked:] {
				if a.answered() && a.header.Get("X-Reload") == itoa(current) {
					served++
				}
			}
			return served >= 10
		})
	}
	l.end()
	assertAll(t, "during reloads", l.all(), http.StatusOK, 500)
	assertOnceAtAPI(t, c, p, "/load", l.all())
	if refused != 10 {
		t.Errorf("%d wrong configurations", refused)
	}
	if n := p.Count(); n != 1 {
		t.Errorf("%d token requests, want the first alone", n)
	}
	after := settled(t, c)
	t.Logf("%d goroutines before, %d after", before, after)
	if after > before+5 { // one for each reload would be 50, for each refused one 10
		t.Errorf("%d goroutines before the reloads, %d after them\n%s", before, after, c.AdminGet("/debug/pprof/goroutine?debug=1"))
	}
	p.AssertStrict()
}

// assertOnceAtAPI wants each request of a load to have come to the API exactly
// once: one that was repeated because its connection was dropped had not been
// begun.
func assertOnceAtAPI(t *testing.T, c *harness.Caddy, p *provider.Provider, prefix string, asked []*loadRequest) {
	t.Helper()
	var times map[string]int
	c.Eventually(10*time.Second, "the API has noted all requests", func() bool {
		times = make(map[string]int)
		for _, r := range p.APIRequests() {
			if strings.HasPrefix(r.URL.Path, prefix+"/") {
				times[r.URL.Path]++
			}
		}
		return len(times) >= len(asked)
	})
	dropped := 0
	for n, a := range asked {
		dropped += a.dropped
		if got := times[prefix+"/"+itoa(n)]; got != 1 {
			t.Errorf("the request %d, answered %d, whose connection was dropped %d times, came to the API %d times", n, a.status, a.dropped, got)
		}
	}
	t.Logf("%d connections were dropped before a request was read", dropped)
	if strings.Contains(c.Log(), "panic serving") {
		t.Error("a handler has panicked")
	}
}

// settled returns the number of Caddy's goroutines when it does not fall any
// more: whoever idled has gone.
func settled(t *testing.T, c *harness.Caddy) int {
	t.Helper()
	least, since := c.Goroutines(), time.Now()
	c.Eventually(time.Minute, "the number of goroutines does not fall any more", func() bool {
		time.Sleep(100 * time.Millisecond)
		if n := c.Goroutines(); n < least {
			least, since = n, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
	return least
}

// twoClients is a provider that knows two clients, client-a and client-b, with
// the usual secret.
func twoClients(t *testing.T) *provider.Provider {
	return provider.New(t, provider.Dialect{Authorize: func(p *provider.Provider, r *provider.TokenRequest) string {
		if (r.User != "client-a" && r.User != "client-b") || r.Pass != p.ExpectedSecret() {
			return "invalid_client"
		}
		return ""
	}})
}

// askedBy returns how many token requests a client has made.
func askedBy(p *provider.Provider, client string) int {
	n := 0
	for _, r := range p.Requests() {
		if r.User == client {
			n++
		}
	}
	return n
}

// asClient is the usual source for one of the two clients.
func asClient(p *provider.Provider, client string) string {
	return strings.Replace(crmSource(p, ""), "client_id "+provider.ClientID, "client_id "+client, 1)
}

// assertServed wants an answer of the API. A token that lives a second may end
// on its way there where the machine stands still; the next one does not.
func assertServed(t *testing.T, url string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "a request is served", func() bool {
		got := ask(t, url)
		return got.status == http.StatusOK && got.body == "hello GET /"
	})
}

// assertStill wants no more token requests of a source that is gone while one
// that is there, with the same short lifetime, makes five.
func assertStill(t *testing.T, what string, gone, there func() int) {
	t.Helper()
	begin := there()
	harness.Eventually(t, 30*time.Second, "the other source renews", func() bool { return there() >= begin+2 })
	before := gone() // a token request that was under way has been counted by now
	harness.Eventually(t, 60*time.Second, "the other source renews", func() bool { return there() >= begin+7 })
	if n := gone() - before; n != 0 {
		t.Errorf("%s: %d more token requests", what, n)
	}
}

func TestAChangedClientIDIsANewSourceAndTheOldOneRenewsNoMore(t *testing.T) {
	t.Parallel()
	p := twoClients(t)
	p.Set(func(k *provider.Knobs) { k.Lifetime = time.Second })
	url := freeURL(t)
	config := func(client string) string { return withSources(asClient(p, client), site(url, p.API, "")) }
	a, b := func() int { return askedBy(p, "client-a") }, func() int { return askedBy(p, "client-b") }
	c := harness.Start(t, config("client-a"), withSecret(provider.ClientSecret))
	c.Eventually(30*time.Second, "the first client's token is renewed", func() bool { return a() >= 3 })
	if n := b(); n != 0 {
		t.Errorf("%d token requests of a client that is not configured", n)
	}
	if err := c.Reload(config("client-b")); err != nil {
		t.Fatal(err)
	}
	c.Eventually(30*time.Second, "the second client asks for a token", func() bool { return b() >= 1 })
	assertServed(t, url)
	assertStill(t, "the first client", a, b)
}

func TestARemovedSourceRenewsNoMoreUntilItIsAddedAgain(t *testing.T) {
	t.Parallel()
	p, other := provider.New(t, provider.Dialect{}), provider.New(t, provider.Dialect{})
	for _, each := range []*provider.Provider{p, other} {
		each.Set(func(k *provider.Knobs) { k.Lifetime = time.Second })
	}
	url := freeURL(t)
	stays := strings.Replace(crmSource(other, ""), "source crm", "source stays", 1)
	with := withSources(stays+"\n"+crmSource(p, ""), site(url, p.API, ""))
	without := withSources(stays, url+" {\nbind 127.0.0.1\nrespond none\n}\n")
	wrong := with + strings.Replace(freeURL(t), "http:", "https:", 1) + " {\nbind 127.0.0.1\ntls {{dir}}/missing.pem {{dir}}/missing.key\n}\n"
	c := harness.Start(t, with, withSecret(provider.ClientSecret))
	for range 2 {
		before := p.Count()
		c.Eventually(30*time.Second, "the source renews", func() bool { return p.Count() >= before+3 })
		assertServed(t, url)
		if err := c.Reload(wrong); err == nil { // it has had the source, too
			t.Fatal("a certificate that is missing was accepted")
		}
		if err := c.Reload(without); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, url); got.body != "none" {
			t.Errorf("without the source: %d %q", got.status, got.body)
		}
		assertStill(t, "the removed source", p.Count, other.Count)
		if err := c.Reload(with); err != nil {
			t.Fatal(err)
		}
	}
	assertServed(t, url)
	p.AssertStrict()
	other.AssertStrict()
}

// TestTwoConfigurationsAlternateUnderLoad goes from one to the other and back,
// as those do who try something out: each of them asks for a token once, and
// finds it in the storage when it comes back. Nobody is refused.
func TestTwoConfigurationsAlternateUnderLoad(t *testing.T) {
	t.Parallel()
	p := twoClients(t)
	p.Set(func(k *provider.Knobs) { k.Delay = 200 * time.Millisecond })
	url := freeURL(t)
	config := func(client string) string {
		return withSources(asClient(p, client), site(url, p.API, "header X-Client "+client))
	}
	c := harness.Start(t, config("client-a"), withSecret(provider.ClientSecret))
	l := startReloadLoad(t, url+"/load", 50)
	const changes = 10
	for n := 1; n <= changes; n++ {
		client := []string{"client-a", "client-b"}[n%2]
		if err := c.Reload(config(client)); err != nil {
			t.Fatal(err)
		}
		asked := len(l.all())
		c.Eventually(30*time.Second, "requests are served for "+client, func() bool {
			all := l.all()
			served := firstServed(all[asked:])
			return served != nil && served.header.Get("X-Client") == client && len(all) >= asked+8
		})
	}
	l.end()
	assertAll(t, "while two configurations alternate", l.all(), http.StatusOK, 50)
	assertOnceAtAPI(t, c, p, "/load", l.all())
	if n := p.Count(); n != 2 {
		t.Errorf("%d token requests for two sources and %d changes", n, changes)
	}
}

// TestAReloadThatFailsAtTheEndLeavesTheRunningSourceAtWork fails where the
// servers start, because a port is taken: some of the new configuration is
// running by then. It does so several times, since Caddy starts apps in any
// order.
func TestAReloadThatFailsAtTheEndLeavesTheRunningSourceAtWork(t *testing.T) {
	t.Parallel()
	p, other := provider.New(t, provider.Dialect{}), provider.New(t, provider.Dialect{})
	for _, each := range []*provider.Provider{p, other} {
		each.Set(func(k *provider.Knobs) { k.Lifetime = time.Second })
	}
	url := freeURL(t)
	added := strings.Replace(crmSource(other, ""), "source crm", "source added", 1)
	c := harness.Start(t, withSources(crmSource(p, ""), site(url, p.API, "")), withSecret(provider.ClientSecret))
	c.Eventually(30*time.Second, "a token was asked for", func() bool { return p.Count() >= 1 })
	const globals = "{{globals}}\n log {\n output file {{dir}}/failed.log\n}\n"
	taken := withSources(crmSource(p, "")+"\n"+added, site(url, p.API, "")+site(other.URL, p.API, "")) // somebody listens at other.URL
	taken = strings.Replace(taken, "{{globals}}", globals, 1)
	for range 6 {
		if err := c.Reload(taken); err == nil || !strings.Contains(err.Error(), "address already in use") {
			t.Fatalf("a configuration with a port that is taken: %v", err)
		}
		assertServed(t, url)
	}
	t.Logf("the configuration that failed had begun %d times when it failed", other.Count())
	failedLog := func() int {
		text, _ := os.ReadFile(filepath.Join(c.Dir, "failed.log"))
		return strings.Count(string(text), "token_sources.crm")
	}
	before := failedLog()
	assertStill(t, "a source of the configuration that failed", other.Count, p.Count)
	if n := failedLog(); n != before {
		t.Errorf("%d renewals were made for the configuration that failed", n-before)
	}
	assertServed(t, url)
	p.AssertStrict()
	other.AssertStrict()
}

func TestCaddyReloadWithTheSameConfigurationAsksForNoToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	text, url := caddyfile(t, crmSource(p, ""), "inject_token crm "+p.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	if got := ask(t, url); got.status != http.StatusOK {
		t.Fatalf("before: %d %q", got.status, got.body)
	}
	for _, force := range [][]string{nil, {"--force"}, {"--force"}} {
		reload := append([]string{"reload", "--config", "Caddyfile", "--address", c.Admin}, force...)
		if out, code := harness.Run(t, c.Dir, reload...); code != 0 {
			t.Fatalf("caddy %v: %s", reload, out)
		}
		if got := ask(t, url); got.status != http.StatusOK {
			t.Errorf("after caddy %v: %d %q", reload, got.status, got.body)
		}
	}
	if n := strings.Count(c.Log(), `"servers shutting down`); n != 2 {
		t.Errorf("%d configurations were replaced, want 2: one for each --force", n)
	}
	if n := p.Count(); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// TestAStopLetsATokenRequestFinish has a caller who waits for that token as
// well: Caddy serves it before it ends.
func TestAStopLetsATokenRequestFinish(t *testing.T) {
	t.Parallel()
	const takes = 2 * time.Second
	for _, waits := range []bool{false, true} {
		t.Run(fmt.Sprintf("a caller waits: %v", waits), func(t *testing.T) {
			t.Parallel()
			finished := make(chan bool, 1)
			p := provider.New(t, provider.Dialect{})
			p.Set(func(k *provider.Knobs) {
				k.Intercept = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
					select {
					case <-r.Context().Done():
						finished <- false
					case <-time.After(takes):
						finished <- true
					}
					return false
				}
			})
			text, url := caddyfile(t, crmSource(p, ""), "inject_token crm "+p.API)
			c := harness.Start(t, text, withSecret(provider.ClientSecret))
			c.Eventually(20*time.Second, "a token request is under way", func() bool { return p.Count() == 1 })
			callers := 0
			if waits {
				callers = 1
			}
			l := startBurst(t, url, callers)
			c.Eventually(20*time.Second, "the caller waits", func() bool { return underWay(t, c) == callers })
			took := stop(t, c)
			l.end()
			select {
			case ok := <-finished:
				if !ok {
					t.Error("the token request was cancelled")
				}
			default:
				t.Error("Caddy ended before the token request")
			}
			if n := c.LogCount("token_sources.crm", "token obtained"); n != 1 {
				t.Errorf("the answer was not read: it is logged %d times", n)
			}
			if waits {
				assertAll(t, "a caller who waited", l.all(), http.StatusOK, 1)
			}
			if took > 8*time.Second { // two, and room for a slow machine
				t.Errorf("Caddy took %v to stop", took)
			}
			t.Logf("stopped within %v", took.Round(time.Millisecond))
		})
	}
}

func TestAStopDoesNotWaitForAProviderThatHangs(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Intercept = hang })
	text, _ := caddyfile(t, crmSource(p, "timeout 5m"), "inject_token crm "+p.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	c.Eventually(20*time.Second, "a token request is under way", func() bool { return p.Count() == 1 })
	took := stop(t, c)
	if took > 9*time.Second { // four, and room for a slow machine
		t.Errorf("Caddy took %v to stop", took)
	}
	t.Logf("stopped within %v", took.Round(time.Millisecond))
}

// stop ends Caddy as a service manager does and returns how long that took.
func stop(t *testing.T, c *harness.Caddy) time.Duration {
	t.Helper()
	began := time.Now()
	c.Signal(syscall.SIGTERM)
	select {
	case <-c.Done():
	case <-time.After(14 * time.Second):
		t.Error("Caddy does not stop")
	}
	return time.Since(began)
}

func TestValidateAndAdaptAskForNoToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	dir, text := t.TempDir(), withSources(crmSource(p, ""), site(freeURL(t), p.API, ""))
	writeExpanded(t, dir, "127.0.0.1:"+itoa(harness.Port(t)), text)
	for _, command := range [][]string{
		{"validate", "--config", "Caddyfile"}, {"adapt", "--config", "Caddyfile"}, {"adapt", "--config", "Caddyfile", "--validate"},
	} {
		if out, code := harness.Run(t, dir, command...); code != 0 {
			t.Errorf("caddy %v: %s", command, out)
		}
	}
	if n := p.Count(); n != 0 {
		t.Errorf("%d token requests", n)
	}
}

func writeExpanded(t *testing.T, dir, admin, text string) {
	t.Helper()
	harness.WriteFile(t, dir, "Caddyfile", (&harness.Caddy{Dir: dir, Admin: admin}).Expand(text))
	harness.WriteFile(t, dir, "secret", provider.ClientSecret)
}

// TestWhatAdaptPrintsRunsAsTheCaddyfileDoes runs both, one after the other.
func TestWhatAdaptPrintsRunsAsTheCaddyfileDoes(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	url := freeURL(t)
	options := `scope read write
		param audience {system.os}
		refresh_at 50%
		timeout 5s
		token_request {
			header X-Asked-By caddy
		}`
	text := withSources(crmSource(p, options), url+` {
		bind 127.0.0.1
		inject_token crm `+p.API+` {
			header X-Token "Token {token}"
			header Authorization
			wait 20s
		}
	}`)
	first := harness.Start(t, text, withSecret(provider.ClientSecret))
	fromCaddyfile := ask(t, url+"/orders?a=1&a=2")
	atProvider, atAPI := p.Requests()[0], p.LastAPIRequest()
	config := first.AdminGet("/config/")
	adapted := harness.Output(t, first.Dir, "adapt", "--config", "Caddyfile")
	first.Stop()

	second := harness.StartJSON(t, adapted, first.Admin)
	fromJSON := ask(t, url+"/orders?a=1&a=2")
	if fromCaddyfile.status != http.StatusOK || fromJSON.status != http.StatusOK || fromCaddyfile.body != fromJSON.body {
		t.Errorf("from the Caddyfile: %d %q, from what adapt printed: %d %q", fromCaddyfile.status, fromCaddyfile.body, fromJSON.status, fromJSON.body)
	}
	if p.Count() != 2 {
		t.Fatalf("%d token requests of two that were run", p.Count())
	}
	if got := p.Requests()[1]; got.Body != atProvider.Body || !reflect.DeepEqual(got.Header, atProvider.Header) {
		t.Errorf("the token request of the Caddyfile: %v %q, of what adapt printed: %v %q", atProvider.Header, atProvider.Body, got.Header, got.Body)
	}
	for _, name := range []string{"Authorization", "X-Token"} {
		before, after := atAPI.Header.Get(name), p.LastAPIRequest().Header.Get(name)
		word, _, _ := strings.Cut(before, " ")
		if token, ok := strings.CutPrefix(after, word+" "); before == "" || !ok || token == "" {
			t.Errorf("%s at the API: %q with the Caddyfile, %q with what adapt printed", name, before, after)
		}
	}
	if got := second.AdminGet("/config/"); got != config {
		t.Errorf("the configuration of the Caddyfile:\n%s\nof what adapt printed:\n%s", config, got)
	}
	p.AssertStrict()
}

func TestAChangedOptionDoesNotLoseTheRotatedRefreshToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Rotate = true })
	text, url := caddyfile(t, fmt.Sprintf(`source crm {
			grant refresh_token
			token_url %s
			client_id %s
			client_secret {file.{{dir}}/secret}
			refresh_token {file.{{dir}}/refresh}
			timeout 9s
		}`, p.TokenURL(), provider.ClientID), "inject_token crm "+p.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret), harness.File("refresh", p.IssueRefreshToken()))
	for i, timeout := range []string{"9s", "10s\nscope read", "11s\nparam tenant north", "9s"} {
		if i > 0 {
			if err := c.Reload(strings.Replace(text, "timeout 9s", "timeout "+timeout, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if resp, body := harness.Get(t, url); resp.StatusCode != http.StatusOK {
			t.Fatalf("with timeout %s: answered %d %q", timeout, resp.StatusCode, body)
		}
		c.Eventually(20*time.Second, "the source with the new option has a token", func() bool { return p.Count() == i+1 })
	}
	if n := p.Reused(); n != 0 {
		t.Errorf("a refresh token was spent twice, %d times", n)
	}
}

// rotating is a source that begins with a refresh token in a file, at a
// provider that rotates them.
func rotating(p *provider.Provider, file, options string) string {
	p.Set(func(k *provider.Knobs) { k.Rotate = true })
	return fmt.Sprintf(`source crm {
			grant refresh_token
			token_url %s
			client_id %s
			client_secret {file.{{dir}}/secret}
			refresh_token {file.{{dir}}/%s}
			%s
		}`, p.TokenURL(), provider.ClientID, file, options)
}

func TestAnOptionThatChangesDuringATokenRequestDoesNotLoseTheRotatedRefreshToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	release := make(chan struct{})
	source := rotating(p, "refresh", "timeout 50s")
	p.Set(func(k *provider.Knobs) {
		k.Intercept = func(_ http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				select {
				case <-release: // longer than Caddy waits at its own end
				case <-r.Context().Done():
				}
			}
			return false
		}
	})
	text, url := caddyfile(t, source, "inject_token crm "+p.API+" {\n wait 50s\n}")
	c := harness.Start(t, text, withSecret(provider.ClientSecret), harness.File("refresh", p.IssueRefreshToken()))
	c.Eventually(20*time.Second, "a token request is under way", func() bool { return p.Count() == 1 })
	waits := make(chan answered)
	go func() { waits <- tryToAsk(url) }()
	c.Eventually(20*time.Second, "a caller waits", func() bool { return underWay(t, c) == 1 })
	if err := c.Reload(strings.Replace(text, "timeout 50s", "timeout 51s", 1)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(6 * time.Second)
	close(release)
	if got := <-waits; got.status != http.StatusOK {
		t.Errorf("the caller who waited was answered %d %q", got.status, got.body)
	}
	if got := ask(t, url); got.status != http.StatusOK {
		t.Errorf("with the new option: %d %q", got.status, got.body)
	}
	if n := p.Reused(); n != 0 {
		t.Errorf("a refresh token was spent twice, %d times", n)
	}
}

func TestAReloadThatFailsDoesNotLoseTheRefreshTokenOfTheRunningSource(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	first, second := rotating(p, "first", ""), rotating(p, "second", "")
	url := freeURL(t)
	c := harness.Start(t, withSources(first, site(url, p.API, "")), withSecret(provider.ClientSecret),
		harness.File("first", p.IssueRefreshToken()), harness.File("second", p.IssueRefreshToken()))
	assertServed(t, url)
	for range 4 { // apps start in any order, so not each has asked for a token when it fails
		err := c.Reload(withSources(second, site(url, p.API, "")+site(p.URL, p.API, "")))
		if err == nil || !strings.Contains(err.Error(), "address already in use") {
			t.Fatalf("a configuration with a port that is taken: %v", err)
		}
	}
	for _, source := range []string{second, first, second} {
		if err := c.Reload(withSources(source, site(url, p.API, ""))); err != nil {
			t.Fatal(err)
		}
		assertServed(t, url)
	}
	if n := p.Reused(); n != 0 {
		t.Errorf("a refresh token was spent twice, %d times", n)
	}
}

func TestAReloadDoesNotWaitForATokenRequest(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Intercept = hang })
	text, _ := caddyfile(t, crmSource(p, "timeout 1m"), "inject_token crm "+p.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	soonest := time.Minute
	for i := range 4 {
		c.Eventually(20*time.Second, "a token request is under way", func() bool { return p.Count() > i })
		began := time.Now()
		if err := c.Reload(strings.Replace(text, "timeout 1m", "timeout 1m"+itoa(i+1)+"s", 1)); err != nil {
			t.Fatal(err)
		}
		soonest = min(soonest, time.Since(began))
	}
	if soonest > 3*time.Second { // the end of the process waits for four
		t.Errorf("the soonest of the reloads took %v", soonest)
	}
}

func TestAnotherTenantDoesNotGoOnWithTheRefreshTokenOfTheFirst(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Rotate = true })
	text, url := caddyfile(t, crmSource(p, "param tenant north"), "inject_token crm "+p.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	for i, tenant := range []string{"north", "south"} {
		if i > 0 {
			if err := c.Reload(strings.Replace(text, "tenant north", "tenant "+tenant, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if resp, body := harness.Get(t, url); resp.StatusCode != http.StatusOK {
			t.Fatalf("of tenant %s: answered %d %q", tenant, resp.StatusCode, body)
		}
	}
	for i, r := range p.Requests() {
		if grant := r.Form.Get("grant_type"); grant != "client_credentials" {
			t.Errorf("token request %d of tenant %s was a %s", i+1, r.Form.Get("tenant"), grant)
		}
	}
}

func TestAStopWaitsForAllTokenRequestsAtOnce(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Delay = time.Minute })
	var sources string
	for _, name := range []string{"crm", "b", "c", "d"} {
		sources += strings.Replace(crmSource(p, "timeout 1m"), "source crm", "source "+name, 1) + "\n"
	}
	text, _ := caddyfile(t, sources, "inject_token crm "+p.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	c.Eventually(20*time.Second, "four token requests are under way", func() bool { return p.Count() == 4 })
	began := time.Now()
	c.Signal(syscall.SIGTERM)
	<-c.Done()
	if took := time.Since(began); took > 10*time.Second { // four, and room for a slow machine; one after the other would be sixteen
		t.Errorf("the stop took %v", took)
	}
}
