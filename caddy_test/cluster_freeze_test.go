package caddy_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/faultstorage"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// controlledFolder is a file storage that tells the test what is done to it.
type controlledFolder struct {
	sharedFolder
	control *faultstorage.Control
}

func newControlledFolder(t *testing.T) controlledFolder {
	control := faultstorage.New(t)
	return controlledFolder{sharedFolder(control.Root), control}
}

func (controlledFolder) option() string { return "{{storage}}" }

func (controlledFolder) options(t *testing.T) []harness.Option {
	return []harness.Option{harness.Executable(faultstorage.Binary(t))}
}

func (f controlledFolder) start(t *testing.T, text string, options ...harness.Option) *harness.Caddy {
	return f.control.Caddy(t, text, options...)
}

// caught is the process that has done something to the storage and does not
// know it yet.
type caught struct {
	pid     int
	release func()
}

// catch holds the next operation of its kind on the source, once it is done.
func (f controlledFolder) catch(op string, kind func(faultstorage.Operation) bool) <-chan caught {
	found := make(chan caught, 1)
	var once sync.Once
	f.control.Set("crm", func(ctx context.Context, o faultstorage.Operation) faultstorage.Verdict {
		if !o.After || o.Op != op || !kind(o) {
			return faultstorage.Verdict{}
		}
		once.Do(func() {
			released := make(chan struct{})
			found <- caught{o.PID, sync.OnceFunc(func() { close(released) })}
			select {
			case <-released:
			case <-ctx.Done():
			}
		})
		return faultstorage.Verdict{}
	})
	return found
}

// TestANodeFrozenBeforeItSendsDoesNotSpendWhatOthersHaveSpent freezes the
// holder of the lock when its intent is stored, until the lock is another's and
// the refresh token spent.
func TestANodeFrozenBeforeItSendsDoesNotSpendWhatOthersHaveSpent(t *testing.T) {
	t.Parallel()
	p := newFreezeProvider(t, 6*time.Second)
	storage := newControlledFolder(t)
	c := newCluster(t, storage, p, 3, clusterSource{grant: "refresh_token\n refresh_token " + p.IssueRefreshToken(), site: "wait 1m"})
	c.assertServed("after the start", 0, 1, 2)
	c.awaitStored(1)
	holder := <-storage.catch("store", faultstorage.Operation.OfIntent)
	frozen := c.node(holder.pid)
	c.nodes[frozen].Freeze()
	began := time.Now()
	holder.release() // of which the frozen one hears nothing
	a, b := others(frozen)
	loads := []*load{startLoad(t, c.nodes[a].url, 10), startLoad(t, c.nodes[b].url, 10)}
	c.awaitStored(2)
	time.Sleep(time.Until(began.Add(lockLifetime + time.Second)))
	c.nodes[frozen].Thaw()
	c.assertServed("thawed", frozen)
	c.awaitStored(c.record().Counter + 1) // and so it goes on
	for _, l := range loads {
		l.end()
		assertAll(t, "on another node", l.all(), http.StatusOK, 1)
	}
	c.assertUnharmed("in the end")
}

// TestANodeFrozenAfterItStoredLeavesTheLockToItsSuccessor freezes the holder of
// the lock when its token is stored, and thaws it while another one has the
// lock and is at the provider.
func TestANodeFrozenAfterItStoredLeavesTheLockToItsSuccessor(t *testing.T) {
	t.Parallel()
	const lifetime = 16 * time.Second // renewed when the lock of a frozen one is none any more
	p := newFreezeProvider(t, lifetime)
	atProvider, release := make(chan struct{}), make(chan struct{})
	p.Set(func(k *provider.Knobs) {
		k.Intercept = func(_ http.ResponseWriter, r *http.Request, n int) bool {
			if n == 3 {
				close(atProvider)
				select {
				case <-release:
				case <-r.Context().Done():
				}
			}
			return false
		}
	})
	storage := newControlledFolder(t)
	c := newCluster(t, storage, p, 3, clusterSource{grant: "refresh_token\n refresh_token " + p.IssueRefreshToken(), site: "wait 1m", options: "timeout 2m"})
	c.assertServed("after the start", 0, 1, 2)
	c.awaitStored(1)
	stored := storage.catch("store", faultstorage.Operation.OfToken)
	p.Revoke() // or the first renewal would be waited for
	asking := make(chan answered, 1)
	go func() { asking <- tryToAsk(c.nodes[0].url + "/x") }()
	holder := <-stored
	frozen := c.node(holder.pid)
	c.nodes[frozen].Freeze()
	holder.release()
	a, b := others(frozen)
	loads := []*load{startLoad(t, c.nodes[a].url, 10), startLoad(t, c.nodes[b].url, 10)}
	<-atProvider
	c.nodes[frozen].Thaw()
	if got := <-asking; got.status != http.StatusOK {
		t.Errorf("who asked before was answered %d %q", got.status, got.body)
	}
	c.assertServed("thawed", frozen)
	// Nobody else gets to the provider, whose answer the successor awaits. What
	// would let them is done by the time that a request was served.
	time.Sleep(3 * time.Second)
	c.assertAsked("while the successor is at the provider", 3)
	close(release)
	c.awaitStored(3)
	for _, l := range loads {
		l.end()
		assertAll(t, "on another node", l.all(), http.StatusOK, 1)
	}
	c.assertUnharmed("in the end")
}

// TestALockOfADeadNodeStopsNobody kills a node that has the lock and has not
// said yet what for. Where locks are short, others keep such a lock fresh for
// it: certmagic refreshes a lock some seconds after it was taken, also if it is
// another's by then.
func TestALockOfADeadNodeStopsNobody(t *testing.T) {
	t.Parallel()
	p := newFreezeProvider(t, 3*time.Second)
	storage := newControlledFolder(t)
	c := newCluster(t, storage, p, 3, clusterSource{grant: "refresh_token\n refresh_token " + p.IssueRefreshToken(), site: "wait 1m"})
	c.assertServed("after the start", 0, 1, 2)
	loads := make([]*load, len(c.nodes))
	for i, n := range c.nodes {
		loads[i] = startLoad(t, n.url, 10)
	}
	var last struct {
		sync.Mutex
		pid int
		at  time.Time
	}
	holder := <-storage.catch("lock", func(o faultstorage.Operation) bool {
		last.Lock()
		defer last.Unlock()
		fresh := last.pid != 0 && last.pid != o.PID && time.Since(last.at) < 4*time.Second
		last.pid, last.at = o.PID, time.Now()
		return fresh
	})
	killed := c.node(holder.pid)
	loads[killed].end()
	before := c.record().Counter
	c.nodes[killed].KillNine()
	holder.release()
	c.awaitStored(before + 2)
	a, b := others(killed)
	for _, node := range []int{a, b} {
		loads[node].end()
		assertAll(t, "on another node", loads[node].all(), http.StatusOK, 1)
	}
	c.again(killed)
	c.assertUnharmed("in the end")
}
