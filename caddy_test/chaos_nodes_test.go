package caddy_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// chaosNode is a Caddy that has several lives.
type chaosNode struct {
	name, url string
	text      func(version, refreshAt int) string // of its Caddyfile

	// Guarded by the cluster's mutex.
	caddy   *harness.Caddy // in its present life
	up      bool           // may be asked
	busy    bool           // something is being done to it
	struck  int            // how often it was killed or frozen
	closes  int            // how often it began or ended to close its listener, in a stop or a reload
	closed  time.Time      // when it did last, in a reload
	version int            // of the configuration
}

// chaosEvent is something that was done to a node.
type chaosEvent struct {
	from, to time.Time // to: of a freeze, when it was thawed
	node     string    // "" for what concerns all
	what     string
	spending string // sources of which a refresh token was being spent
}

// chaosCluster is the nodes, and what is done to them.
type chaosCluster struct {
	t       *testing.T
	began   time.Time
	storage sharedFolder
	gates   map[string]*chaosGate // by source
	nodes   []*chaosNode

	mu       sync.Mutex // guards the nodes and everything below
	events   []*chaosEvent
	lives    []chaosLife
	withheld int
	problems []string
}

// chaosLife is one life of a node.
type chaosLife struct {
	node  string
	caddy *harness.Caddy
}

// live notes a new life of a node.
func (c *chaosCluster) live(n *chaosNode, caddy *harness.Caddy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.caddy, n.up = caddy, true
	c.lives = append(c.lives, chaosLife{n.name, caddy})
}

// logs returns what all lives have logged of their sources, one after the
// other.
func (c *chaosCluster) logs() string {
	var lines []string
	for _, life := range c.lives {
		for _, line := range life.caddy.LogLines() {
			logger, _ := line["logger"].(string)
			source, of := strings.CutPrefix(logger, "token_sources.")
			if !of {
				continue
			}
			seconds, _ := line["ts"].(float64)
			at := time.UnixMicro(int64(seconds * 1e6))
			text := fmt.Sprintf("%s %s %s: %v", c.since(at), life.node, source, line["msg"])
			for _, field := range []string{"counter", "reason"} {
				if line[field] != nil {
					text += fmt.Sprintf(", %s %v", field, line[field])
				}
			}
			lines = append(lines, text)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines[max(0, len(lines)-2000):], "\n")
}

func (c *chaosCluster) event(node, what, spending string) *chaosEvent {
	e := &chaosEvent{from: time.Now(), node: node, what: what, spending: spending}
	e.to = e.from
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
	return e
}

// problem notes something that must not happen.
func (c *chaosCluster) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, c.since(time.Now())+" "+fmt.Sprintf(format, args...))
}

func (c *chaosCluster) since(at time.Time) string {
	return fmt.Sprintf("%7.3fs", at.Sub(c.began).Seconds())
}

// told returns what was done lately, at a time.
func (c *chaosCluster) told(at time.Time, lately time.Duration) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for _, e := range c.events {
		if e.from.After(at) || e.to.Before(at.Add(-lately)) {
			continue
		}
		line := c.since(e.from) + " " + e.node + " " + e.what
		if e.to.After(e.from) {
			line += ", until " + c.since(e.to)
		}
		if e.spending != "" {
			line += ", while it was spending a refresh token of " + e.spending
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n\t\t")
}

// take reserves a node on which something is to be done; nil if there is none.
// Where it will be down, another one stays up.
func (c *chaosCluster) take(pick func(n int) int, goesDown bool) *chaosNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	var idle []*chaosNode
	up := 0
	for _, n := range c.nodes {
		if n.up {
			up++
		}
		if n.up && !n.busy {
			idle = append(idle, n)
		}
	}
	if len(idle) == 0 || goesDown && up < 2 {
		return nil
	}
	n := idle[pick(len(idle))]
	n.busy = true
	return n
}

func (c *chaosCluster) give(n *chaosNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.busy = false
}

// standStill stops all threads of a node where that is allowed, and tells
// which refresh tokens it is spending. For B it is not allowed while one of
// B's token requests is open or its answer not stored: no client survives that
// without a grant to fall back on. The node stands still before one looks, so
// that nothing begins meanwhile. Returns false where it was never allowed.
func (c *chaosCluster) standStill(n *chaosNode, what string) (*chaosEvent, bool) {
	caddy := n.caddy
	for range 200 {
		caddy.Freeze()
		if !c.gates["b"].asking(n.name) && !c.storage.spending("b", caddy.PID()) {
			spending := ""
			if c.gates["a"].asking(n.name) || c.storage.spending("a", caddy.PID()) {
				spending = "a"
			}
			c.mu.Lock()
			n.up = false
			n.struck++
			c.mu.Unlock()
			return c.event(n.name, what, spending), true
		}
		caddy.Thaw()
		c.mu.Lock()
		c.withheld++
		c.mu.Unlock()
		time.Sleep(23 * time.Millisecond)
	}
	return nil, false
}

// kill kills a node and starts it again.
func (c *chaosCluster) kill(n *chaosNode, pause time.Duration) {
	if _, allowed := c.standStill(n, "was killed"); !allowed {
		c.problem("%s could not be killed: it was spending a refresh token of b all the time", n.name)
		return
	}
	n.caddy.KillNine()
	time.Sleep(pause)
	c.startAgain(n)
}

// freeze stops all threads of a node for some time, or until the end.
func (c *chaosCluster) freeze(n *chaosNode, pause time.Duration, end <-chan struct{}) {
	e, allowed := c.standStill(n, fmt.Sprintf("was frozen for %.1fs", pause.Seconds()))
	if !allowed {
		c.problem("%s could not be frozen: it was spending a refresh token of b all the time", n.name)
		return
	}
	select {
	case <-time.After(pause):
	case <-end:
	}
	n.caddy.Thaw()
	c.mu.Lock()
	defer c.mu.Unlock()
	e.to = time.Now()
	n.up = true
}

// stop stops a node as a service manager does, and starts it again.
func (c *chaosCluster) stop(n *chaosNode, pause time.Duration) {
	c.mu.Lock()
	n.up = false
	n.closes++
	c.mu.Unlock()
	c.event(n.name, "was stopped", "")
	n.caddy.Signal(syscall.SIGTERM)
	select {
	case <-n.caddy.Done():
	case <-time.After(time.Minute):
		c.problem("%s did not end within a minute of SIGTERM", n.name)
		n.caddy.KillNine()
	}
	time.Sleep(pause)
	c.startAgain(n)
}

func (c *chaosCluster) startAgain(n *chaosNode) {
	caddy := n.caddy.Again()
	c.event(n.name, "was started again", "")
	c.live(n, caddy)
}

// reload loads another configuration. With refreshAt the sources are others
// as well.
func (c *chaosCluster) reload(n *chaosNode, refreshAt int) {
	closes := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		n.closes++
		n.closed = time.Now()
	}
	closes()
	defer closes()
	n.version++
	what := fmt.Sprintf("was reloaded with version %d", n.version)
	if refreshAt != defaultRefreshAt {
		what += fmt.Sprintf(" and refresh_at %d%%", refreshAt)
	}
	c.event(n.name, what, "")
	text := n.text(n.version, refreshAt)
	n.caddy.Write("Caddyfile", n.caddy.Expand(text))
	if err := n.caddy.Reload(text); err != nil {
		c.problem("%s did not reload: %v", n.name, err)
	}
}

// thaw lets every node go on that is frozen.
func (c *chaosCluster) thaw() {
	for _, n := range c.nodes {
		n.caddy.Thaw()
	}
}

// causes returns what was done to one of those that spent a refresh token more
// than once, while they did.
func (c *chaosCluster) causes(spends []spend) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	first, last := spends[0].at, spends[len(spends)-1].at
	var causes []string
	for _, e := range c.events {
		by := slices.ContainsFunc(spends, func(s spend) bool { return s.node == e.node })
		if by && e.spending != "" && e.from.Before(last) && e.to.After(first.Add(-time.Second)) {
			causes = append(causes, c.since(e.from)+" "+e.node+" "+e.what)
		}
	}
	return causes
}

// chosenNode is a node that was chosen for a request, as it was then.
type chosenNode struct {
	*chaosNode
	began          time.Time
	struck, closes int
}

// choose returns a node that is up, and another than the one that was tried
// before if there is one.
func (c *chaosCluster) choose(pick func(n int) int, tried *chaosNode) (chosenNode, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var up []*chaosNode
	for _, n := range c.nodes {
		if n.up && n != tried {
			up = append(up, n)
		}
	}
	if tried != nil && len(up) == 0 && tried.up {
		up = append(up, tried)
	}
	if len(up) == 0 {
		return chosenNode{}, false
	}
	n := up[pick(len(up))]
	return chosenNode{n, time.Now(), n.struck, n.closes}, true
}

// closesFor is how long the servers of an old configuration may go on after a
// reload: their grace period, and some more.
const closesFor = 5 * time.Second

// meanwhile says what has happened to a chosen node meanwhile.
func (c *chaosCluster) meanwhile(n chosenNode) (struck, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return n.chaosNode.struck != n.struck, n.chaosNode.closes != n.closes || n.began.Sub(n.closed) < closesFor
}

// notTaken says whether an error is of a connection that nobody took, or that
// was dropped before anything was answered.
func notTaken(err error) bool {
	_, network := errors.AsType[*net.OpError](err)
	return network || errors.Is(err, io.EOF)
}
