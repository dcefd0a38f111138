package caddy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
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
// stood still; nothing is concluded from such a moment, and where there was
// little else, all is done once more.
func TestNobodyWaitsForTheProviderWhileTokensLiveTwoSeconds(t *testing.T) {
	for round := 1; !twoSecondTokens(t); round++ {
		if round == 3 {
			t.Fatal("the machine stood still so often that nothing was proved")
		}
	}
}

// twoSecondTokens returns false where it proved too little.
func twoSecondTokens(t *testing.T) bool {
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

	// What was under way while the machine stood still may have come to the API
	// with a token that had ended meanwhile.
	stood := func(from, to time.Time) bool { return slowest(control.all(), from.Add(-lifetime), to) >= stall }
	assertAll(t, "control", control.all(), http.StatusOK, 250)
	assertAll(t, "with a token", slices.DeleteFunc(l.all(), func(a *loadRequest) bool { return stood(a.began, a.ended) }), http.StatusOK, 0)
	if n := len(l.all()); n < 2500 {
		t.Errorf("only %d requests", n)
	}
	if tokenRequests > 12 || tokenRequests < 6 {
		t.Errorf("%d token requests, want at most 12 and some", tokenRequests)
	}
	for _, at := range p.ExpiredSeen() {
		if !stood(at, at) {
			t.Errorf("a request came to the API with an expired token at %s", at.Format("15:04:05.000"))
		}
	}
	judged := 0
	for range len(renewals) {
		r := <-renewals
		if stood(r.began, r.ended) {
			t.Logf("the machine stood still; then %d requests waited for the provider", r.waited)
			continue
		}
		judged++
		if r.waited > 0 {
			t.Errorf("%d requests waited for the provider, although there was a valid token", r.waited)
		}
	}
	t.Logf("%d token requests; %d renewals were looked at", tokenRequests, judged)
	p.AssertStrict()
	return t.Failed() || judged >= 3
}

// passed is a moment that has passed.
var passed = func() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()

func TestManyFirstRequestsAreOneTokenRequest(t *testing.T) {
	t.Parallel()
	const callers = 200
	release := make(chan struct{})
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) {
		k.Intercept = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return false
		}
	})
	text, url := caddyfile(t, crmSource(p, "timeout 2m"), "inject_token crm "+p.API+" {\n wait 2m\n}")
	c := harness.Start(t, text, withSecret(provider.ClientSecret))

	l := startBurst(t, url, callers)
	c.Eventually(time.Minute, "all callers wait", func() bool { return underWay(t, c) == callers })
	close(release)
	l.end()
	assertAll(t, "first requests", l.all(), http.StatusOK, callers)
	if n := p.Count(); n != 1 {
		t.Errorf("%d token requests for %d first requests", n, callers)
	}
	p.AssertStrict()
}

// TestAValidTokenIsServedToItsEndWhileTheProviderIsDown takes the provider
// away from the moment it has issued a token.
func TestAValidTokenIsServedToItsEndWhileTheProviderIsDown(t *testing.T) {
	const lifetime = 10 * time.Second
	p := provider.New(t, provider.Dialect{})
	var up atomic.Bool
	down := provider.Fail(http.StatusServiceUnavailable, "")
	p.Set(func(k *provider.Knobs) {
		k.Lifetime = lifetime
		k.Intercept = func(w http.ResponseWriter, r *http.Request, n int) bool {
			return n > 1 && !up.Load() && down(w, r, n)
		}
	})
	text, url := caddyfile(t, crmSource(p, ""), "inject_token crm "+p.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	l := startLoad(t, url, 200)
	c.Eventually(20*time.Second, "a token was asked for", func() bool { return p.Count() >= 1 })
	// The token ends ten seconds after its issue, which is later than this.
	end := p.Requests()[0].At.Add(lifetime)
	c.Eventually(30*time.Second, "requests are refused once the token has ended", func() bool {
		return time.Now().After(end) && len(refusedOf(l.all())) > 10
	})
	tokenRequests := p.Count()
	up.Store(true)
	back := time.Now()
	sinceBack := func(asked []*loadRequest) []*loadRequest {
		return slices.DeleteFunc(asked, func(a *loadRequest) bool { return a.began.Before(back) })
	}
	c.Eventually(30*time.Second, "requests are served again", func() bool {
		newest := sinceBack(l.all())
		served := firstServed(newest)
		return served != nil && len(newest) > slices.Index(newest, served)+200
	})
	l.end()

	within := slices.DeleteFunc(l.all(), func(a *loadRequest) bool { return !a.ended.Before(end) })
	after := slices.DeleteFunc(l.all(), func(a *loadRequest) bool { return a.ended.Before(end) })
	assertAll(t, "with a valid token", within, http.StatusOK, 1600)
	if tokenRequests > 6 || tokenRequests < 3 {
		t.Errorf("%d token requests until the token had ended, want at most 6, and some", tokenRequests)
	}
	late := 0
	for _, a := range refusedOf(after) {
		switch {
		case a.status == http.StatusUnauthorized && a.began.Before(end.Add(time.Second)):
			late++ // Caddy counts from when the answer arrived, which is a little later
		case a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "":
			t.Fatalf("after the token had ended: %d, Retry-After %q, %v", a.status, a.header.Get("Retry-After"), a.err)
		}
	}
	served := firstServed(sinceBack(l.all()))
	assertAll(t, "after the recovery", slices.DeleteFunc(l.all(), func(a *loadRequest) bool { return a.began.Before(served.ended) }), http.StatusOK, 100)
	t.Logf("%d token requests until the end; served again %v after the provider was back; %d sent in the token's last moment",
		tokenRequests, served.ended.Sub(back).Round(time.Millisecond), late)
	p.AssertStrict()
}

// TestARejectedSecretIsNotTriedAgainUntilItIsCorrected does not reload: the
// corrected file is enough.
func TestARejectedSecretIsNotTriedAgainUntilItIsCorrected(t *testing.T) {
	const (
		takes  = time.Second      // at the provider
		healed = 12 * time.Second // promised: 10

		// The file is looked at each 9 seconds, so the correction comes just
		// too late for a look.
		lasts = 10*time.Second + takes
	)
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Delay = takes })
	text, url := caddyfile(t, crmSource(p, ""), "inject_token crm "+p.API)
	c := harness.Start(t, text, withSecret("a-wrong-secret"))
	l := startLoad(t, url, 200)
	time.Sleep(lasts)
	callers := slices.DeleteFunc(l.all(), func(a *loadRequest) bool { return !a.answered() })
	tokenRequests := p.Count()
	p.Set(func(k *provider.Knobs) { k.Delay = 0 })
	corrected := time.Now()
	c.Write("secret", provider.ClientSecret)
	var served *loadRequest
	c.Eventually(30*time.Second, "the corrected secret is used", func() bool {
		served = firstServed(l.all())
		return served != nil
	})
	took := served.ended.Sub(corrected)
	since := len(l.all())
	c.Eventually(20*time.Second, "more callers have asked", func() bool { return len(l.all()) > since+100 })
	l.end()

	assertAll(t, "with a rejected secret", callers, http.StatusBadGateway, 1600)
	if tokenRequests < 1 || tokenRequests > 2 {
		t.Fatalf("%d token requests with a rejected secret, want one or two", tokenRequests)
	}
	if n := p.Count(); n != tokenRequests+1 {
		t.Errorf("%d token requests for a corrected secret", n-tokenRequests)
	}
	// Those who came during the first token request have waited for it.
	told := p.Requests()[0].At.Add(takes + takes/2)
	later := slices.DeleteFunc(callers, func(a *loadRequest) bool { return a.began.Before(told) })
	assertAll(t, "once it is known", later, http.StatusBadGateway, 1200)
	if half := quantile(later, .5); half > takes/4 {
		t.Errorf("half of the callers were told after %v: that is not at once", half)
	}
	t.Logf("served %v after the secret was corrected", took.Round(time.Millisecond))
	if took > healed {
		t.Errorf("served only %v after the secret was corrected", took)
	}
	assertAll(t, "with the corrected secret",
		slices.DeleteFunc(l.all(), func(a *loadRequest) bool { return a.began.Before(served.ended) }), http.StatusOK, 90)
	p.AssertStrict()
}

// refusedOf returns those that were answered, and not with 200.
func refusedOf(asked []*loadRequest) []*loadRequest {
	return slices.DeleteFunc(slices.Clone(asked), func(a *loadRequest) bool { return !a.answered() || a.status == http.StatusOK })
}

// firstServed returns the first that was answered with 200, or nil.
func firstServed(asked []*loadRequest) *loadRequest {
	for _, a := range asked {
		if a.answered() && a.status == http.StatusOK {
			return a
		}
	}
	return nil
}
