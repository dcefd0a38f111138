package caddy_test

import (
	"fmt"
	"net/http"
	"strings"
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
		{strings.TrimSuffix(version(1, "", ""), "}\n"), "EOF"},
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
	times := make(map[string]int)
	for _, r := range p.APIRequests() {
		times[r.URL.Path]++
	}
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
		http.DefaultClient.CloseIdleConnections() // the harness's own, to the admin API
		time.Sleep(100 * time.Millisecond)
		if n := c.Goroutines(); n < least {
			least, since = n, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
	return least
}
