package caddy_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// consentPromises hold for nodes of a cluster on every storage.
var consentPromises = map[string]func(*testing.T, sharedStorage){
	"any node completes what another has begun":               anyNodeCompletes,
	"a code that comes to all nodes is sent once":             codeIsSentByOneNode,
	"a device that one node has begun is granted to all":      deviceIsGrantedToAll,
	"a revocation on one node is one on all":                  revokedOnAll,
	"a grant that the provider has ended is asked for by few": endedByProvider,
	"a node that was killed does not keep others from it":     killedNodeKeepsNobody,
}

func TestConsentInAClusterOnFiles(t *testing.T) {
	t.Parallel()
	onFiles(t, consentPromises)
}

func TestConsentInAClusterOnRedis(t *testing.T) {
	t.Parallel()
	onRedis(t, consentPromises)
}

// startConsents starts so many nodes at once, of which the first one's landing
// page is the redirect_uri.
func startConsents(t *testing.T, storage sharedStorage, nodes int, change func(a *consent)) []*consent {
	t.Helper()
	first := newConsent(t, nil)
	first.globals = storage.option()
	if change != nil {
		change(first)
	}
	all := []*consent{first}
	for len(all) < nodes {
		all = append(all, first.node())
	}
	var starting sync.WaitGroup
	for _, a := range all {
		starting.Go(func() { a.start(storage.options(t)...) })
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// assertAllServe wants of each node that the first request after a moment is
// served: none is needed to wake it.
func assertAllServe(t *testing.T, when string, nodes []*consent) {
	t.Helper()
	var asking sync.WaitGroup
	for i, a := range nodes {
		asking.Go(func() {
			if got := a.call(); got.status != http.StatusOK || got.body != "hello GET /x" {
				t.Errorf("%s node %d answered %d %q", when, i, got.status, got.body)
			}
		})
	}
	asking.Wait()
}

func anyNodeCompletes(t *testing.T, storage sharedStorage) {
	nodes := startConsents(t, storage, 3, nil)
	a, b, c := nodes[0], nodes[1], nodes[2]
	for _, node := range nodes {
		node.assertNeedsPerson("in the beginning") // and each has seen that there is none
	}
	begun := a.begin()
	b.assertLanded(b.land(a.agree(begun)))
	assertAllServe(t, "after a landing on another node", nodes)
	for i, node := range nodes {
		if _, result := node.poll(begun.ID); result.Status != "granted" {
			t.Errorf("node %d says of the authorization: %+v", i, result)
		}
		if s := node.state(); s.State != "fresh" || !s.HasToken || !s.Refreshable {
			t.Errorf("node %d says of the source: %+v", i, s)
		}
	}
	a.assertAsked("for three nodes", 1)

	// Once more, over another grant, and pasted.
	begun = b.begin()
	landing := b.agree(begun)
	if got, result := c.complete(begun.ID, landing); result.Status != "granted" {
		t.Fatalf("pasted on another node: %d %s", got.status, got.body)
	}
	a.assertPage(a.land(landing), http.StatusBadRequest) // it is used, on each node
	a.p.Revoke()                                         // which ends the tokens; the new refresh token is good on all nodes
	assertAllServe(t, "after another grant", nodes)
	if n := a.p.Reused(); n > 0 {
		t.Errorf("%d refresh tokens were spent twice", n)
	}
	a.p.AssertStrict()
}

func codeIsSentByOneNode(t *testing.T, storage sharedStorage) {
	nodes := startConsents(t, storage, 3, nil)
	for round := range 3 {
		begun := nodes[round].begin()
		landing := nodes[0].agree(begun)
		var mu sync.Mutex
		won := 0
		var landed sync.WaitGroup
		for i := range 9 {
			landed.Go(func() {
				done := false
				if node := nodes[i%3]; i < 6 {
					done = node.land(landing).status == http.StatusOK
				} else {
					_, result := node.complete(begun.ID, landing)
					done = result.Status == "granted"
				}
				mu.Lock()
				defer mu.Unlock()
				if done {
					won++
				}
			})
		}
		landed.Wait()
		if won != 1 {
			t.Errorf("%d of nine were the one that has authorized", won)
		}
		nodes[0].assertAsked("for one code on three nodes", round+1)
		assertAllServe(t, "after a code that came to all nodes", nodes)
	}
}

func deviceIsGrantedToAll(t *testing.T, storage sharedStorage) {
	nodes := startConsents(t, storage, 3, func(a *consent) { a.grant = "device_code" })
	begun := nodes[0].begin()
	nodes[0].c.Eventually(20*time.Second, "it polls", nodes[0].asked(1))
	for i, node := range nodes {
		if _, result := node.poll(begun.ID); result.Status != "pending" || result.UserCode != begun.UserCode {
			t.Errorf("node %d says of the authorization: %+v", i, result)
		}
	}
	nodes[0].p.Approve(begun.UserCode)
	nodes[1].c.Eventually(40*time.Second, "another node says that it is granted", nodes[1].isIn(begun.ID, "granted"))
	assertAllServe(t, "after a device was connected", nodes)
	nodes[0].p.AssertStrict() // one of them polls
}

func revokedOnAll(t *testing.T, storage sharedStorage) {
	nodes := startConsents(t, storage, 3, nil)
	nodes[0].authorize()
	assertAllServe(t, "after a landing", nodes)
	got := nodes[1].admin(http.MethodPost, "/token_sources/crm/revoke", "")
	if got.status != http.StatusOK || !strings.Contains(compact(got.body), `"revoked_at_provider":true`) {
		t.Fatalf("revoked: %d %s", got.status, got.body)
	}
	nodes[1].assertNeedsPerson("at once, on the node that has revoked it,")
	for _, node := range nodes {
		node.c.Eventually(30*time.Second, "the other nodes know", node.needsPerson)
		node.assertNeedsPerson("after a revocation")
	}
	// Nothing comes back: no node stores again what it had.
	before := nodes[0].p.Count()
	for _, node := range nodes {
		node.c.Stop()
	}
	for key, value := range storage.entries(t) {
		for _, token := range nodes[0].p.IssuedTokens() {
			if strings.Contains(value, token) {
				t.Errorf("after a revocation the entry %s holds a token", key)
			}
		}
	}
	for _, node := range nodes {
		node.again(storage.options(t)...)
		node.assertNeedsPerson("after a revocation and a restart")
	}
	nodes[0].assertAsked("after a revocation", before)
	nodes[2].authorize()
	assertAllServe(t, "authorized again", nodes)
}

// endedByProvider has a provider that does not take the refresh token any more.
func endedByProvider(t *testing.T, storage sharedStorage) {
	nodes := startConsents(t, storage, 3, func(a *consent) {
		a.p.Set(func(k *provider.Knobs) { k.Lifetime = 8 * time.Second })
	})
	a := nodes[0]
	a.authorize()
	assertAllServe(t, "after a landing", nodes)
	a.p.RevokeRefreshTokens()
	issued := a.p.Count()
	// While the token is valid it is used, by all nodes.
	a.c.Eventually(30*time.Second, "the refresh token is refused", a.asked(issued+1))
	if time.Until(a.p.LastExpiry()) > time.Second {
		assertAllServe(t, "while the token is valid", nodes)
	}
	for _, node := range nodes {
		node.c.Eventually(40*time.Second, "it tells its callers", node.needsPerson)
		node.assertNeedsPerson("after the provider has ended the grant")
	}
	// No loop: neither by time nor by callers.
	asked := a.p.Count()
	if most := issued + len(nodes); asked > most {
		t.Errorf("there were %d token requests, want no more than %d", asked, most)
	}
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		for _, node := range nodes {
			if got := node.call(); got.status != http.StatusBadGateway || !strings.Contains(got.header.Get("Proxy-Status"), `details="invalid_grant"`) {
				t.Fatalf("answered %d %q", got.status, got.header.Get("Proxy-Status"))
			}
		}
	}
	a.assertAsked("after many callers", asked)
	a.p.Set(func(k *provider.Knobs) { k.Lifetime = time.Hour })
	begun := nodes[1].begin()
	nodes[2].assertLanded(nodes[2].land(a.agree(begun)))
	assertAllServe(t, "authorized again", nodes)
	a.p.AssertStrict()
}

func killedNodeKeepsNobody(t *testing.T, storage sharedStorage) {
	h := newHeld()
	nodes := startConsents(t, storage, 2, nil)
	a, b := nodes[0], nodes[1]
	lost, other := a.begin(), a.begin()
	landing := a.agree(lost)
	a.p.Set(func(k *provider.Knobs) { k.Intercept = h.intercept })
	var landed sync.WaitGroup
	landed.Go(func() { a.land(landing) })
	h.await(t)
	a.c.KillNine()
	landed.Wait()
	a.p.Set(func(k *provider.Knobs) { k.Intercept = nil })
	// What the other one has begun is good; what was lost is told, in time.
	b.assertLanded(b.land(b.agree(other)))
	b.assertServes("after another node was killed")
	b.c.Eventually(90*time.Second, "what was lost is told", b.isIn(lost.ID, "lost"))
	b.assertPage(b.land(landing), http.StatusBadRequest)
	a.assertAsked("in all", 2)
	b.assertServes("in the end")
	a.again(storage.options(t)...)
	a.c.Eventually(20*time.Second, "the one that was killed serves again", a.serves)
}
