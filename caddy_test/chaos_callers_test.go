package caddy_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// chaosCallers ask at a steady rate, whether or not the earlier ones have been
// answered.
type chaosCallers struct {
	cluster *chaosCluster
	client  *http.Client

	mu       sync.Mutex // guards everything below
	random   *rand.Rand
	asked    map[string]int // by source
	excused  map[string]int // failures on a node that was killed or frozen
	moved    map[string]int // not taken by a node that was being stopped, and sent to another
	failures map[string][]string
	slowest  map[string]time.Duration
}

func newChaosCallers(c *chaosCluster, seed uint64) *chaosCallers {
	return &chaosCallers{
		cluster: c,
		// A connection for each request: Caddy, as every server of Go, closes
		// kept ones on a reload or a stop even if a request is on its way.
		client:   &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
		random:   rand.New(rand.NewPCG(seed, 2)),
		asked:    make(map[string]int),
		excused:  make(map[string]int),
		moved:    make(map[string]int),
		failures: make(map[string][]string),
		slowest:  make(map[string]time.Duration),
	}
}

// run sends requests to the sources in turns until it is ended, and returns
// when all are answered.
func (cc *chaosCallers) run(perSecond int, end <-chan struct{}) {
	var sending sync.WaitGroup
	defer sending.Wait()
	pause := time.Second / time.Duration(perSecond)
	began := time.Now()
	for n := 0; ; n++ {
		select {
		case <-time.After(time.Until(began.Add(time.Duration(n) * pause))):
		case <-end:
			return
		}
		source := []string{"a", "b"}[n%2]
		sending.Go(func() { cc.send(source, n) })
	}
}

func (cc *chaosCallers) pick(n int) int {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	return cc.random.IntN(n)
}

// send sends a request to a node, and to another one if that was being stopped
// and did not take the connection, as every balancer does.
func (cc *chaosCallers) send(source string, n int) {
	cc.mu.Lock()
	cc.asked[source]++
	cc.mu.Unlock()
	var tried []*chaosNode
	for {
		node, ok := cc.cluster.choose(cc.pick, tried)
		if !ok {
			cc.cluster.problem("no node is up")
			return
		}
		tried = append(tried, node.chaosNode)
		began := time.Now()
		status, body, err := cc.ask(fmt.Sprintf("%s/%s/%d", node.url, source, n))
		took := time.Since(began)
		if status == http.StatusOK && err == nil && body == fmt.Sprintf("hello /%s/%d", source, n) {
			cc.mu.Lock()
			cc.slowest[source] = max(cc.slowest[source], took)
			cc.mu.Unlock()
			return
		}
		struck, stopped := cc.cluster.meanwhile(node)
		if stopped && !struck && err != nil && notTaken(err) {
			cc.count(cc.moved, source)
			continue
		}
		if struck {
			cc.count(cc.excused, source)
			return
		}
		what := fmt.Sprintf("%d %q", status, body)
		if err != nil {
			what += ", " + err.Error()
		}
		line := fmt.Sprintf("%s request %d of source %s on %s, sent at %s: after %v %s; lately:\n\t\t%s",
			cc.cluster.since(time.Now()), n, source, node.name, cc.cluster.since(began), took.Round(time.Millisecond), what,
			cc.cluster.told(time.Now(), 20*time.Second))
		cc.mu.Lock()
		cc.failures[source] = append(cc.failures[source], line)
		cc.mu.Unlock()
		return
	}
}

// awaitAll waits until each node serves each source. The provider fails by
// chance, so that the first try need not be the one.
func (cc *chaosCallers) awaitAll(t *testing.T, when string) {
	t.Helper()
	for _, n := range cc.cluster.nodes {
		for _, source := range []string{"a", "b"} {
			harness.Eventually(t, 30*time.Second, fmt.Sprintf("%s serves source %s %s", n.name, source, when), func() bool {
				status, _, _ := cc.ask(n.url + "/" + source + "/check")
				return status == http.StatusOK
			})
		}
	}
}

func (cc *chaosCallers) count(counter map[string]int, source string) {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	counter[source]++
}

func (cc *chaosCallers) ask(url string) (status int, body string, err error) {
	resp, err := cc.client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}
