package caddy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// Tests in this file that are not parallel have Caddy and the machine for
// themselves: they hold 200 requests a second.

// renewal is a token request that was held back until everybody who asked
// before was answered: who is answered first has not waited for it.
type renewal struct {
	began, ended time.Time
	waited       int // requests that were not answered before it
}

// TestNobodyWaitsForTheProviderWhileTokensLiveTwoSeconds does not measure how
// long answers take, which on a busy machine says little. It holds back each
// renewal, which takes 300 ms anyway, until all requests are answered that
// came until then. A control without a token says when the machine itself
// stood still; nothing is concluded from such a moment.
func TestNobodyWaitsForTheProviderWhileTokensLiveTwoSeconds(t *testing.T) {
	const (
		lifetime = 2 * time.Second
		takes    = 300 * time.Millisecond
		lasts    = 15 * time.Second
		stall    = 200 * time.Millisecond
	)
	var callers atomic.Pointer[load]
	renewals := make(chan renewal, 100)
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) {
		k.Lifetime = lifetime
		k.Intercept = func(_ http.ResponseWriter, r *http.Request, n int) bool {
			this := renewal{began: time.Now()}
			time.Sleep(takes)
			l := callers.Load()
			if n == 1 || l == nil {
				return false
			}
			enough := time.After(3 * time.Second)
			for _, a := range l.underWay() {
				select {
				case <-a.done:
				case <-enough:
					enough = passed
					if !a.answered() {
						this.waited++
					}
				}
			}
			this.ended = time.Now()
			renewals <- this
			return false
		}
	})
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "plain") }))
	defer plain.Close()
	text, url := caddyfile(t, crmSource(p, ""), `handle /plain/* {
		reverse_proxy `+plain.URL+`
	}
	handle {
		inject_token crm `+p.API+`
	}`)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	c.Eventually(20*time.Second, "a token was asked for", func() bool { return p.Count() == 1 })

	control := startLoad(t, url+"/plain", 20)
	l := startLoad(t, url+"/injected", 200)
	callers.Store(l)
	time.Sleep(lasts)
	tokenRequests := p.Count()
	l.end()
	control.end()

	assertAll(t, "with a token", l.all(), http.StatusOK, 2500)
	assertAll(t, "control", control.all(), http.StatusOK, 250)
	if tokenRequests > 12 || tokenRequests < 6 {
		t.Errorf("%d token requests, want at most 12 and some", tokenRequests)
	}
	if n := p.ExpiredSeen(); n != 0 {
		t.Errorf("%d requests came to the API with an expired token", n)
	}
	judged := 0
	for range len(renewals) {
		r := <-renewals
		worst := slowest(control.all(), r.began.Add(-lifetime), r.ended)
		if worst >= stall {
			t.Logf("the machine stood still for %v; then %d requests waited for the provider", worst, r.waited)
			continue
		}
		judged++
		if r.waited > 0 {
			t.Errorf("%d requests waited for the provider, although there was a valid token", r.waited)
		}
	}
	if judged < 3 {
		t.Errorf("only %d renewals on a machine that did not stand still, which proves too little", judged)
	}
	t.Logf("%d token requests; %d renewals were looked at", tokenRequests, judged)
	p.AssertStrict()
}

// passed is a moment that has passed.
var passed = func() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()
