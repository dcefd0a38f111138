package caddy_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

const (
	// stormLasts is how long refusals go on, stormRate how many a second.
	stormLasts = time.Minute
	stormRate  = 50

	// mostInAStorm is how many token requests a minute of refusals may cost, the
	// first one included.
	mostInAStorm = 5
)

// TestAnAPIThatRefusesEverythingCostsFewTokenRequests has an API that refuses
// every token for a minute. Each caller gets the refusal, none waits for long.
func TestAnAPIThatRefusesEverythingCostsFewTokenRequests(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	api := &gate{valid: func(string) bool { return false }}
	text, url := caddyfile(t, i.source("crm"), "inject_token crm "+serve(t, api))
	harness.Start(t, text, withSecret(provider.ClientSecret))
	l := startLoad(t, url, stormRate)
	time.Sleep(stormLasts)
	n := i.count("crm")
	l.end()
	assertAll(t, "refused", l.all(), http.StatusUnauthorized, stormRate*40)
	if n < 2 || n > mostInAStorm {
		t.Errorf("%d token requests within a minute, want at most %d, and some", n, mostInAStorm)
	}
	t.Logf("%d token requests", n)
}

// TestACallerWhoProvokesRefusalsHarmsNobody has one caller ask for what the API
// refuses to everybody, for a minute. The honest callers of the same source must
// not notice. That they wait for no token request is not measured: each one is
// held back until all of them are answered who came before. A control without a
// token says when the machine itself stood still.
func TestACallerWhoProvokesRefusalsHarmsNobody(t *testing.T) {
	t.Parallel()
	const (
		honestRate  = 50
		controlRate = 10
		room        = time.Second // by which the honest may be slower, on a busy machine
	)
	var honest atomic.Pointer[load]
	renewals := make(chan renewal, 100)
	i := newIssuer(t)
	i.interceptWith(func(_ http.ResponseWriter, _ *http.Request, _ string, n int) bool {
		l := honest.Load()
		if n == 1 || l == nil {
			return false
		}
		this := renewal{began: time.Now()}
		enough := time.After(5 * time.Second)
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
	})
	api := &gate{valid: i.valid, next: func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/provoked") {
			refuseLoudly(w, r)
		}
	}}
	plain := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	text, url := caddyfile(t, i.source("crm"), "reverse_proxy /plain/* "+plain+"\ninject_token crm "+serve(t, api))
	harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	control := startLoad(t, url+"/plain", controlRate)
	l := startLoad(t, url+"/honest", honestRate)
	honest.Store(l)
	provoking := startLoad(t, url+"/provoked", stormRate)
	time.Sleep(stormLasts)
	n := i.count("crm")
	provoking.end()
	l.end()
	control.end()

	assertAll(t, "provoked", provoking.all(), http.StatusUnauthorized, stormRate*40)
	assertAll(t, "honest", l.all(), http.StatusOK, honestRate*40)
	assertAll(t, "control", control.all(), http.StatusOK, controlRate*40)
	if n < 2 || n > mostInAStorm {
		t.Errorf("%d token requests within a minute, want at most %d, and some", n, mostInAStorm)
	}
	for range len(renewals) {
		r := <-renewals
		if slowest(control.all(), r.began, r.ended) > time.Second {
			t.Logf("the machine stood still; then %d honest callers waited", r.waited)
		} else if r.waited > 0 {
			t.Errorf("%d honest callers waited for a token request that another has provoked", r.waited)
		}
	}
	for _, share := range []float64{.5, .95} {
		if want, got := quantile(control.all(), share), quantile(l.all(), share); got > 2*want+room {
			t.Errorf("%.0f%% of the honest callers were answered within %v, and of a plain reverse_proxy's within %v", share*100, got, want)
		}
	}
	t.Logf("%d token requests", n)
}

// TestARevocationIsHealedInTheMiddleOfAStorm revokes the token while
// another caller provokes refusals. The pause that those have caused may delay
// the new token: nobody is refused for good.
func TestARevocationIsHealedInTheMiddleOfAStorm(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	api := &gate{valid: i.valid, next: func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/provoked") {
			refuseLoudly(w, r)
		}
	}}
	text, url := caddyfile(t, i.source("crm"), "inject_token crm "+serve(t, api))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	provoking := startLoad(t, url+"/provoked", stormRate)
	c.Eventually(20*time.Second, "a token was asked for in vain", func() bool { return i.count("crm") == 2 })
	i.revoke()
	c.Eventually(time.Minute, "honest callers are served again", func() bool {
		resp, _ := harness.Get(t, url+"/honest")
		return resp.StatusCode == http.StatusOK
	})
	provoking.end()
	if n := i.count("crm"); n > mostInAStorm {
		t.Errorf("%d token requests", n)
	}
}
