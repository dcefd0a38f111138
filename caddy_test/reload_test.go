package caddy_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// socketSite is a site on a unix socket. A reload hands such a socket over,
// whereas Caddy opens a new TCP socket beside the old one and the system drops
// who has just connected to that: a test that allows no failure cannot use TCP.
// The idle connections to the API are soon closed, for those who count
// goroutines.
func socketSite(socket, api, more string) string {
	return fmt.Sprintf(`http://127.0.0.1 {
	bind unix/%s
	%s
	inject_token crm %s {
		transport http {
			keepalive 1s
		}
	}
}
`, socket, more, api)
}

// socketURL is the address of such a site.
const socketURL = "http://127.0.0.1"

// socketPath returns a path that is short enough for a socket.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "reload")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// withSources is a configuration with these sources and sites.
func withSources(sources, sites string) string {
	return "{\n{{globals}}\ntoken_sources {\n" + sources + "\n}\n}\n" + sites
}

// TestFiftyReloadsUnderLoadFailNobody is not parallel: it counts goroutines.
func TestFiftyReloadsUnderLoadFailNobody(t *testing.T) {
	p := provider.New(t, provider.Dialect{})
	socket := socketPath(t)
	source := crmSource(p, "")
	version := func(n int, sources, sites string) string {
		sites += socketSite(socket, p.API, "header X-Reload "+itoa(n))
		for i := range n % 3 { // sites come and go
			sites += fmt.Sprintf("http://host%d.test {\n bind unix/%s\n respond %d\n}\n", i, socket, n)
		}
		return withSources(source+"\n"+sources, sites)
	}
	wrong := []func(n int) string{
		func(n int) string { return strings.TrimSuffix(version(n, "", ""), "}\n") },
		func(n int) string {
			return version(n, "", "http://wrong.test {\n bind unix/"+socket+"\n inject_token crn "+p.API+"\n}\n")
		},
		func(n int) string {
			return version(n, "", "http://wrong.test {\n bind unix/"+socket+"\n reverse_proxy "+p.API+" {\n transport inject_token crn\n }\n}\n")
		},
		func(n int) string {
			return version(n, "", "https://wrong.test {\n bind unix/"+socket+"2\n tls {{dir}}/missing.pem {{dir}}/missing.key\n}\n")
		},
		func(n int) string {
			other := strings.Replace(source, "source crm", "source zzz", 1)
			return version(n, strings.TrimSuffix(other, "}")+"transport http {\n tls_client_auth {{dir}}/missing.pem {{dir}}/missing.key\n }\n}", "")
		},
	}
	reasons := []string{"EOF", "Caddyfile:", "provision http", "missing.pem", "source zzz"}
	c := harness.Start(t, version(0, "", ""), withSecret(provider.ClientSecret))
	warm := startSocketLoad(t, socket, socketURL, 100)
	c.Eventually(30*time.Second, "requests are served", func() bool { return len(warm.all()) > 50 && firstServed(warm.all()) != nil })
	warm.end()
	before := settled(t, c)

	l := startSocketLoad(t, socket, socketURL, 100)
	current, refused := 0, 0
	for n := 1; n <= 50; n++ {
		if n%5 == 0 {
			refused++
			if err := c.Reload(wrong[refused%len(wrong)](n)); err == nil {
				t.Fatalf("the wrong configuration %d was accepted", refused%len(wrong))
			} else if !strings.Contains(err.Error(), reasons[refused%len(wrong)]) {
				t.Errorf("refused for another reason than %q: %v", reasons[refused%len(wrong)], err)
			}
		} else if err := c.Reload(version(n, "", "")); err != nil {
			t.Fatal(err)
		} else {
			current = n
		}
		// The next one comes when some requests have been served by this one.
		served := 0
		asked := len(l.all())
		c.Eventually(30*time.Second, "requests are served with configuration "+itoa(current), func() bool {
			served = 0
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
