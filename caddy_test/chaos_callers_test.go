package caddy_test

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
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
	moved    map[string]int // not taken by a node that was being stopped or reloaded, and sent to another
	failures map[string][]chaosFailure
	slowest  map[string]time.Duration
	stalls   []stall
}

// stall is a time in which the machine, or a part of it, stood still: a request
// that needs no token took so long.
type stall struct{ from, to time.Time }

// Stalls that count, and how much of the time there may be such. Tokens live
// for 3 s and are renewed 0.6 s before they end.
const (
	stallsFrom = 300 * time.Millisecond
	mostStalls = 0.25
)

// chaosFailure is a request that failed, and had no excuse.
type chaosFailure struct {
	source, node string
	began, ended time.Time
	what         string
}

// tell returns what came to callers, one line for those who got the same at a
// time, with what was done to the nodes before.
func (cc *chaosCallers) tell(failures []chaosFailure) (lines []string) {
	slices.SortStableFunc(failures, func(a, b chaosFailure) int { return cmp.Compare(a.node+a.what, b.node+b.what) })
	c := cc.cluster
	for len(failures) > 0 {
		first, n := failures[0], 1
		for n < len(failures) && failures[n].node == first.node && failures[n].what == first.what && failures[n].ended.Sub(failures[n-1].ended).Abs() < time.Second {
			n++
		}
		last := failures[n-1]
		failures = failures[n:]
		lines = append(lines, fmt.Sprintf("%d requests of source %s on %s, sent from %s and answered until %s, the first after %v: %s; lately:\n\t\t%s",
			n, first.source, first.node, c.since(first.began), c.since(last.ended), first.ended.Sub(first.began).Round(time.Millisecond), first.what,
			c.told(first.ended, 15*time.Second)))
	}
	return lines
}

func newChaosCallers(c *chaosCluster, seed uint64) *chaosCallers {
	return &chaosCallers{
		cluster: c,
		// A connection for each request: every server of Go closes kept ones in
		// a reload or a stop even if a request is on its way.
		client:   &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
		random:   rand.New(rand.NewPCG(seed, 2)),
		asked:    make(map[string]int),
		excused:  make(map[string]int),
		moved:    make(map[string]int),
		failures: make(map[string][]chaosFailure),
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

// control asks each node in turns for what needs no token, until the end. Where
// that takes long, nothing is concluded from what happens then.
func (cc *chaosCallers) control(end <-chan struct{}) {
	var asking sync.WaitGroup
	defer asking.Wait()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-end:
			return
		}
		asking.Go(func() {
			node, ok := cc.cluster.choose(cc.pick, nil)
			if !ok {
				return
			}
			began := time.Now()
			_, _, _ = cc.ask(node.url + "/plain")
			if time.Since(began) < stallsFrom {
				return
			}
			if struck, closed := cc.cluster.meanwhile(node); !struck && !closed {
				cc.mu.Lock()
				cc.stalls = append(cc.stalls, stall{began, time.Now()})
				cc.mu.Unlock()
			}
		})
	}
}

// stalled says whether the machine stood still while a request was under way,
// or so shortly before that a renewal was late. The caller holds mu.
func (cc *chaosCallers) stalled(f chaosFailure) bool {
	return slices.ContainsFunc(cc.stalls, func(s stall) bool {
		return s.to.After(f.began.Add(-chaosLifetime)) && s.from.Before(f.ended)
	})
}

// stood returns for how much of the time the machine stood still. The caller
// holds mu.
func (cc *chaosCallers) stood() (all time.Duration) {
	var until time.Time
	for _, s := range slices.SortedFunc(slices.Values(cc.stalls), func(a, b stall) int { return a.from.Compare(b.from) }) {
		if s.from.Before(until) {
			s.from = until
		}
		if s.to.After(s.from) {
			all += s.to.Sub(s.from)
			until = s.to
		}
	}
	return all
}

func (cc *chaosCallers) pick(n int) int {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	return cc.random.IntN(n)
}

// turnedAway is how soon a connection ends that nobody takes. A request that
// waits at a node which is being stopped is to be answered.
const turnedAway = time.Second

// send sends a request to a node, and to another one if that was being stopped
// or reloaded and did not take the connection, as every balancer does. (Caddy
// opens its listener anew in a reload; who waits at the old one is turned away.)
func (cc *chaosCallers) send(source string, n int) {
	cc.mu.Lock()
	cc.asked[source]++
	cc.mu.Unlock()
	var tried *chaosNode
	for {
		node, ok := cc.cluster.choose(cc.pick, tried)
		if !ok {
			cc.cluster.problem("no node is up")
			return
		}
		tried = node.chaosNode
		began := time.Now()
		status, body, err := cc.ask(fmt.Sprintf("%s/%s/%d", node.url, source, n))
		took := time.Since(began)
		if status == http.StatusOK && err == nil && body == fmt.Sprintf("hello /%s/%d", source, n) {
			if struck, _ := cc.cluster.meanwhile(node); !struck {
				cc.mu.Lock()
				cc.slowest[source] = max(cc.slowest[source], took)
				cc.mu.Unlock()
			}
			return
		}
		struck, closed := cc.cluster.meanwhile(node)
		if closed && !struck && err != nil && notTaken(err) && took < turnedAway {
			cc.count(cc.moved, source)
			continue
		}
		if struck {
			cc.count(cc.excused, source)
			return
		}
		f := chaosFailure{source: source, node: node.name, began: began, ended: time.Now(), what: fmt.Sprintf("%d %q", status, body)}
		if err != nil {
			f.what += ", " + err.Error()
		}
		cc.mu.Lock()
		cc.failures[source] = append(cc.failures[source], f)
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
