package caddy_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// TestAReloadThatChangesASourceFailsNobodyWhoWaits reloads nodes while they
// wait for what another one obtains: with other options the source has another
// refresher, and who waits at the old one is served nevertheless.
func TestAReloadThatChangesASourceFailsNobodyWhoWaits(t *testing.T) {
	for name, held := range map[string]int{"for the first token": 1, "with a refused request": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newFreezeProvider(t, time.Hour)
			first := &firstAsker{n: held, node: make(chan int, 1)}
			released := make(chan struct{})
			release := sync.OnceFunc(func() { close(released) })
			t.Cleanup(release)
			p.Set(func(k *provider.Knobs) {
				k.Intercept = func(_ http.ResponseWriter, r *http.Request, n int) bool {
					if first.tell(r, n) {
						select {
						case <-released:
						case <-r.Context().Done():
						}
					}
					return false
				}
			})
			source := clusterSource{grant: "refresh_token\n refresh_token " + p.IssueRefreshToken(), site: "wait 1m", options: "timeout 1m"}
			c := newCluster(t, newSharedFolder(t), p, 3, source)
			if held == 2 {
				c.assertServed("after the start", 0, 1, 2)
				c.awaitStored(1)
				p.Revoke()
			}
			loads := make([]*load, len(c.nodes))
			for i, n := range c.nodes {
				loads[i] = startBurst(t, n.url, 10)
			}
			a, b := others(<-first.node)
			for _, node := range []int{a, b} {
				c.awaitWaiting(node, 10)
				source.options = "timeout 1m\n refresh_at 7" + itoa(node) + "%"
				if err := c.nodes[node].Reload(c.caddyfile(node, source)); err != nil {
					t.Error(err)
				}
			}
			release()
			for i, l := range loads {
				l.end()
				assertAll(t, "on node "+itoa(i), l.all(), http.StatusOK, 10)
			}
			c.assertUnharmed("in the end")
			c.assertAsked("in the end", held)
		})
	}
}

// awaitWaiting waits until so many requests are under way at a node.
func (c *cluster) awaitWaiting(node, requests int) {
	c.t.Helper()
	c.nodes[node].Eventually(time.Minute, itoa(requests)+" requests wait", func() bool { return underWay(c.t, c.nodes[node].Caddy) >= requests })
}
