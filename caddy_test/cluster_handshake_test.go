package caddy_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// lockLifetime is how long a lock of Caddy's file storage outlives its holder.
const lockLifetime = 10 * time.Second

// node returns the number of the node that is a process.
func (c *cluster) node(pid int) int {
	c.t.Helper()
	for i, n := range c.nodes {
		if n.PID() == pid {
			return i
		}
	}
	c.t.Fatalf("no node is process %d", pid)
	return 0
}

// assertUnharmed wants that no refresh token was spent twice, and that every
// node serves.
func (c *cluster) assertUnharmed(when string) {
	c.t.Helper()
	c.assertServed(when, 0, 1, 2)
	if c.p.Reused() > 0 || c.p.RevokedFamilies() > 0 {
		c.t.Errorf("%s %d refresh tokens were spent twice, %d families revoked", when, c.p.Reused(), c.p.RevokedFamilies())
	}
	c.p.AssertStrict()
}

func newFreezeProvider(t *testing.T, lifetime time.Duration) *provider.Provider {
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Lifetime, k.Rotate, k.Families = lifetime, true, true })
	return p
}

// stallingListener holds back what arrives on connections while it is armed.
type stallingListener struct {
	net.Listener
	mu      sync.Mutex // guards stall
	stall   chan struct{}
	stalled chan struct{} // gets one for each connection that is held
}

func (l *stallingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	stall := l.stall
	l.mu.Unlock()
	if stall != nil {
		l.stalled <- struct{}{}
	}
	return &stallingConn{Conn: conn, until: stall}, nil
}

type stallingConn struct {
	net.Conn
	until chan struct{} // nil: at once
}

func (c *stallingConn) Read(p []byte) (int, error) {
	if c.until != nil {
		<-c.until
	}
	return c.Conn.Read(p)
}

// arm holds back from now on, until release.
func (l *stallingListener) arm() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stall := make(chan struct{})
	l.stall = stall
	return sync.OnceFunc(func() {
		l.mu.Lock()
		l.stall = nil
		l.mu.Unlock()
		close(stall)
	})
}

// TestANodeFrozenInTheHandshakeDoesNotSpendWhatOthersHaveSpent freezes a node
// later still: its request is made, and only the connection to the provider
// does not stand yet.
func TestANodeFrozenInTheHandshakeDoesNotSpendWhatOthersHaveSpent(t *testing.T) {
	t.Parallel()
	p := newFreezeProvider(t, 6*time.Second)
	target, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(target))
	listener := &stallingListener{Listener: front.Listener, stalled: make(chan struct{}, 100)}
	front.Listener = listener
	front.Config.SetKeepAlivesEnabled(false)
	front.StartTLS()
	t.Cleanup(front.Close)

	c := newCluster(t, newSharedFolder(t), p, 3, clusterSource{
		tokenURL: front.URL + "/token",
		grant:    "refresh_token\n refresh_token " + p.IssueRefreshToken(), site: "wait 1m",
		options: "timeout 2m\n transport http {\n tls_insecure_skip_verify\n tls_timeout 2m\n}",
	})
	c.assertServed("after the start", 0, 1, 2)
	c.awaitStored(1)
	storage := c.storage.(sharedFolder)
	release := listener.arm()
	t.Cleanup(release)
	<-listener.stalled
	spending := storage.intents("crm")
	if len(spending) != 1 {
		t.Fatalf("%d intents are stored while a token request is made", len(spending))
	}
	frozen := c.node(spending[0].PID)
	c.nodes[frozen].Freeze()
	began := time.Now()
	release()
	a, b := others(frozen)
	loads := []*load{startLoad(t, c.nodes[a].url, 10), startLoad(t, c.nodes[b].url, 10)}
	c.awaitStored(2)
	time.Sleep(time.Until(began.Add(lockLifetime + time.Second)))
	c.nodes[frozen].Thaw()
	c.assertServed("thawed", frozen)
	c.awaitStored(c.record().Counter + 1)
	for _, l := range loads {
		l.end()
		assertAll(t, "on another node", l.all(), http.StatusOK, 1)
	}
	c.assertUnharmed("in the end")
}
