package caddy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/browser"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// authorize has a new person authorize crm.
func (w *personWorld) authorize(c *personCaddy) *browser.Person {
	w.t.Helper()
	begun := c.begin()
	person := browser.New(w.t)
	person.Authorize(begun.AuthorizationURL)
	assertLanded(w.t, person, w.callback)
	assertGranted(w.t, c, begun.ID)
	return person
}

func TestAfterThePersonTheGrantRenewsItself(t *testing.T) {
	for name, client := range map[string]string{"a client with a secret": withASecret, "a client without one": native} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newPersonWorld(t, 3, nobody(t))
			c, address := w.start(w.source(w.endpoints(), client))
			w.authorize(c)
			c.Eventually(time.Minute, "five tokens have been active, one after the other", func() bool {
				c.assertServed(address)
				tokens, _ := w.api.seen()
				return len(tokens) >= 5 || t.Failed()
			})
			w.assertNeverReused()

			// What was granted once outlives this Caddy.
			c.Stop()
			again := &personCaddy{c.Again(), t}
			again.Eventually(time.Minute, "requests are served again", func() bool {
				resp, _ := harness.Get(t, address)
				return resp.StatusCode == http.StatusOK
			})
			w.assertNeverReused()
		})
	}
}

func TestARevocationAtTheProviderNeedsThePersonAgain(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, nobody(t))
	c, address := w.start(w.source(w.endpoints(), withASecret))
	person := w.authorize(c)
	c.assertServed(address)

	before := w.stats().TokenRequests
	w.revokeGrants()
	c.Eventually(time.Minute, "the revocation is noticed", func() bool {
		resp, _ := harness.Get(t, address)
		return resp.StatusCode == http.StatusBadGateway
	})
	c.assertNeedsAPerson(address, "invalid_grant")
	storm(t, address, 200)
	text, _ := w.site(w.source(w.endpoints(), withASecret))
	if err := c.Reload(strings.Replace(text, "\tlog\n", "\tlog\n\trespond /other 204\n", 1)); err != nil {
		t.Fatal(err)
	}
	storm(t, address, 50)
	c.assertNeedsAPerson(address, "invalid_grant")
	if n := w.stats().TokenRequests - before; n != 1 {
		t.Errorf("%d token requests since the revocation, not one", n)
	}
	warned := 0
	for _, line := range c.LogLines() {
		if line["logger"] == "token_sources.crm" && line["command"] == authorizeCommand && line["level"] == "warn" {
			warned++
		}
	}
	if warned == 0 || warned > 3 { // at the start, at the revocation, perhaps after the reload
		t.Errorf("%d warnings with the command", warned)
	}

	// The same person, who is still logged in, consents once more.
	begun := c.begin()
	person.Open(begun.AuthorizationURL)
	person.Consent()
	assertLanded(t, person, w.callback)
	assertGranted(t, c, begun.ID)
	c.assertServed(address)
}

// storm sends requests, eight at once, and wants each to be told that a person
// must authorize.
func storm(t *testing.T, address string, requests int) {
	t.Helper()
	var sending sync.WaitGroup
	for range 8 {
		sending.Go(func() {
			for range requests / 8 {
				if got := tryToAsk(address + "/x"); got.status != http.StatusBadGateway {
					t.Errorf("answered %d %q", got.status, got.body)
				}
			}
		})
	}
	sending.Wait()
}

// keepAsking sends requests, four at once, and hands over each answer with the
// time at which it was asked for, until stop has returned.
func keepAsking(address string, answer func(asked time.Time, got answered)) (stop func()) {
	end := make(chan struct{})
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for {
				select {
				case <-end:
					return
				case <-time.After(20 * time.Millisecond):
				}
				asked := time.Now()
				answer(asked, tryToAsk(address+"/x"))
			}
		})
	}
	return sync.OnceFunc(func() {
		close(end)
		asking.Wait()
	})
}

func TestAuthorizingAgainFailsNoRequest(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 5, nobody(t))
	c, address := w.start(w.source(w.endpoints(), native))
	person := w.authorize(c)
	c.assertServed(address)
	var asked atomic.Int64
	stop := keepAsking(address, func(_ time.Time, got answered) {
		if got.status != http.StatusOK {
			t.Errorf("answered %d %q", got.status, got.body)
		}
		asked.Add(1)
	})
	defer stop()

	// The same person consents again, which extends the grant that is there;
	// and then another person does, whose grant is a new one.
	begun := c.begin()
	person.Open(begun.AuthorizationURL)
	person.Consent()
	assertLanded(t, person, w.callback)
	assertGranted(t, c, begun.ID)
	w.authorize(c)
	before := w.api.distinct()
	c.Eventually(time.Minute, "the new grant was renewed twice", func() bool { return w.api.distinct() >= before+2 })
	stop()
	if asked.Load() < 50 {
		t.Errorf("only %d requests meanwhile", asked.Load())
	}
	w.assertNeverReused()
}

func TestAnyNodeLandsWhatAnotherHasBegun(t *testing.T) {
	t.Parallel()
	addresses := []string{"http://127.0.0.1:" + itoa(harness.Port(t)), "http://127.0.0.1:" + itoa(harness.Port(t))}
	var landed atomic.Pointer[time.Time]
	w := newPersonWorld(t, 4, landingAt(t, addresses[1], &landed)+"/callback")
	folder := newSharedFolder(t)
	nodes := make([]*personCaddy, 2)
	for i, address := range addresses {
		nodes[i] = &personCaddy{harness.Start(t, fmt.Sprintf(`{
	%s
	%s
	token_sources {
		%s
	}
}
%s {
	bind 127.0.0.1
	token_callback /callback
	inject_token crm %s
}
`, clusterGlobals, folder.option(), w.source(w.endpoints(), withASecret), address, w.api.URL), withSecret(provider.ClientSecret)), t}
	}
	for i := range nodes {
		nodes[i].assertNeedsAPerson(addresses[i], "authorization_required")
	}

	// Requests come all the time to the node that does not land it. Those that
	// come when the person is told are served.
	var served atomic.Int64
	stop := keepAsking(addresses[0], func(asked time.Time, got answered) {
		switch told := landed.Load(); {
		case got.status == http.StatusOK:
			served.Add(1)
		case told != nil && asked.After(*told):
			t.Errorf("%v after the person was told, a request was answered %d %q", asked.Sub(*told), got.status, got.body)
		}
	})
	defer stop()
	begun := nodes[0].begin()
	person := browser.New(t)
	person.Authorize(begun.AuthorizationURL)
	assertLanded(t, person, w.callback)
	for i := range nodes {
		nodes[i].assertServed(addresses[i])
	}
	nodes[0].Eventually(time.Minute, "many were served", func() bool { return served.Load() > 50 || t.Failed() })
	stop()
	for i := range nodes {
		assertGranted(t, nodes[i], begun.ID)
	}
	nodes[0].Eventually(time.Minute, "four tokens have been active", func() bool {
		for i := range nodes {
			nodes[i].assertServed(addresses[i])
		}
		return w.api.distinct() >= 4 || t.Failed()
	})
	w.assertNeverReused()
}

// landingAt stands before a node, and notes when it has told of a grant.
func landingAt(t *testing.T, node string, told *atomic.Pointer[time.Time]) (front string) {
	target, err := url.Parse(node)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(resp *http.Response) error {
			if now := time.Now(); resp.StatusCode == http.StatusOK {
				told.Store(&now)
			}
			return nil
		},
	})
	t.Cleanup(server.Close)
	return server.URL
}
