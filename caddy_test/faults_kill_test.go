package caddy_test

import (
	"context"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/faultstorage"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// step is where in a renewal Caddy is killed.
type step int

const (
	nowhere      step = iota
	beforeLock        // it asks for the lock
	withLock          // it has the lock
	intentStored      // the storage has what it is about to do
	requestSent       // the provider has the token request
	answerThere       // it has the answer and begins to store it
	tokenStored       // the storage has the new token
)

// isAt says whether an operation of the storage is the step: after what came
// before, and before what comes next.
func (s step) isAt(o faultstorage.Operation) bool {
	switch s {
	case beforeLock:
		return o.Op == "lock" && !o.After
	case withLock:
		return o.Op == "lock" && o.After
	case intentStored:
		return o.Op == "store" && o.OfIntent() && o.After
	case answerThere:
		return o.Op == "store" && o.OfToken() && !o.After
	case tokenStored:
		return o.Op == "store" && o.OfToken() && o.After
	}
	return false // nowhere; requestSent is the provider's to see
}

// mostAtStep is how long a step may take: Caddy waits 2 s for a storage, and
// goes on without it then.
const mostAtStep = 1800 * time.Millisecond

// barrier lets all sources of a Caddy come to a step, and none go on.
type barrier struct {
	mu      sync.Mutex // guards what follows
	waiting map[string]bool
	first   time.Time
	there   chan struct{} // closed when all are there
	missing int
}

func newBarrier(sources int) *barrier {
	return &barrier{waiting: make(map[string]bool), there: make(chan struct{}), missing: sources}
}

// wait is where a source has come to the step; it ends with the context.
func (b *barrier) wait(ctx context.Context, source string) {
	b.mu.Lock()
	if !b.waiting[source] {
		b.waiting[source] = true
		if b.first.IsZero() {
			b.first = time.Now()
		}
		if b.missing--; b.missing == 0 {
			close(b.there)
		}
	}
	b.mu.Unlock()
	<-ctx.Done()
}

// assertThere wants every source at the step.
func (b *barrier) assertThere(all []*trial) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, tr := range all {
		if !b.waiting[tr.name] {
			tr.errorf("it does not come to that step")
		}
	}
}

// killing bounds how many Caddies are brought to a step at once.
var killing = make(chan struct{}, 2)

// runKill brings all sources of a fault to the step, kills Caddy there and
// starts it again. On a machine that is too busy to bring all of them there at
// once it begins again.
func runKill(t *testing.T, f fault) {
	for range 5 {
		all := trials(t, faultstorage.New(t), func(other fault) bool { return other.word == f.word })
		killing <- struct{}{}
		killed := kill(t, f.at, all)
		<-killing
		if killed {
			watchRestart(t, all)
			return
		}
		t.Logf("this machine was too slow to bring %d sources to the same step at once; once more", len(all))
	}
	t.Error("Caddy could not be killed at that step")
}

// kill kills Caddy when all sources have come to the step, the valid and the
// expired ones with a token. It reports whether they were there at once.
func kill(t *testing.T, at step, all []*trial) bool {
	t.Helper()
	var primed []*trial
	for _, tr := range all {
		if tr.holding != none {
			primed = append(primed, tr)
		}
	}
	if len(primed) > 0 {
		c := startTrials(t, primed)
		for _, tr := range primed {
			tr.eventually(30*time.Second, "there is a token", func() bool { return tr.count("info", "token obtained", "") > 0 })
		}
		c.Stop()
	}
	for _, tr := range primed {
		due := 3200 * time.Millisecond // 1% of its lifetime, and a little
		if tr.holding == expired {
			due = tr.lifetime() + 500*time.Millisecond
		}
		tr.eventually(30*time.Second, "the token is to be renewed", func() bool {
			return time.Now().After(tr.p.LastExpiry().Add(due - tr.lifetime()))
		})
	}

	b := newBarrier(len(all))
	for _, tr := range all {
		tr.p.Set(func(k *provider.Knobs) { k.Lifetime = time.Hour })
		if at == requestSent {
			tr.answers(func(_ http.ResponseWriter, r *http.Request, _ int) bool {
				b.wait(r.Context(), tr.name)
				return true
			})
			continue
		}
		tr.control.Set(tr.name, func(ctx context.Context, o faultstorage.Operation) faultstorage.Verdict {
			if at.isAt(o) {
				b.wait(ctx, tr.name)
			}
			return faultstorage.Verdict{}
		})
	}
	c := startTrials(t, all)
	atOnce := true
	select {
	case <-b.there:
	case <-time.After(mostAtStep):
		select { // all of them must come, or the test is wrong
		case <-b.there:
		case <-time.After(20 * time.Second):
			b.assertThere(all)
		}
		atOnce = at == requestSent
	}
	c.Signal(syscall.SIGKILL)
	<-c.Done()
	for _, tr := range all {
		tr.answers(nil)
		tr.control.Set(tr.name, nil)
		tr.asked = tr.p.Count()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return atOnce && (at == requestSent || time.Since(b.first) < mostAtStep)
}

// lifetime is that of the tokens before the kill.
func (tr *trial) lifetime() time.Duration {
	if tr.holding == valid {
		return validLifetime
	}
	return expiredLifetime
}

// watchRestart wants of the Caddy that comes next what the table says.
func watchRestart(t *testing.T, all []*trial) {
	t.Helper()
	startTrials(t, all)
	var running sync.WaitGroup
	for _, tr := range all {
		running.Go(func() {
			tr.call(func() {})
			tr.checkOutcomes()
			tr.checkProvider()
			tr.checkLog()
		})
	}
	running.Wait()
}
