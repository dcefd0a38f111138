package refresher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// fault is what happens to one access of a storage.
type fault struct {
	name   string
	before func() error // instead of its effect
	after  func() error // in spite of it
}

var faults = []fault{
	{name: "fails", before: func() error { return errors.New("it fails") }},
	{name: "has done it, and fails", after: func() error { return errors.New("it is done, and fails") }},
	{name: "hangs", before: func() error { time.Sleep(time.Minute); return errors.New("it has hung") }},
	{name: "has done it, and hangs", after: func() error { time.Sleep(time.Minute); return nil }},
	{name: "panics", before: func() error { panic("canary") }},
}

// faulty is a storage with a fault in its nth access.
type faulty struct {
	*memory
	mu    sync.Mutex // guards what follows
	nth   int        // from now; 0: none
	fault fault
	what  string // was hit
}

func (f *faulty) meets(nth int, one fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nth, f.fault, f.what = nth, one, ""
}

// calm ends what has not been met.
func (f *faulty) calm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nth = 0
}

func (f *faulty) hit() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.what
}

func (f *faulty) do(what string, effect func() error) error {
	f.mu.Lock()
	f.nth--
	var now fault
	if f.nth == 0 {
		now, f.what = f.fault, what
	}
	f.mu.Unlock()
	if now.before != nil {
		return now.before()
	}
	err := effect()
	if now.after != nil {
		return now.after()
	}
	return err
}

func (f *faulty) Load(ctx context.Context) (r *Record, err error) {
	if failure := f.do("Load", func() error { r, err = f.memory.Load(ctx); return err }); failure != nil {
		return nil, failure
	}
	return r, err
}

func (f *faulty) Save(ctx context.Context, r *Record) error {
	return f.do("Save", func() error { return f.memory.Save(ctx, r) })
}

func (f *faulty) Lock(ctx context.Context) error {
	return f.do("Lock", func() error { return f.memory.Lock(ctx) })
}

// Unlock succeeds where nobody holds the lock.
func (f *faulty) Unlock(context.Context) error {
	return f.do("Unlock", func() error {
		select {
		case <-f.lock:
		default:
		}
		return nil
	})
}

// atEachStep runs a test once for each fault at each access of the storage that is
// made, and wants it to come to an end with the turn and the lock given back.
func atEachStep(t *testing.T, test func(w *world, store *faulty, meet func())) {
	for _, one := range faults {
		for nth := 1; ; nth++ {
			hit := ""
			t.Run(fmt.Sprintf("access %d %s", nth, one.name), func(t *testing.T) {
				inWorldWithStore(t, forPeople, func(w *world, m *memory) {
					store := &faulty{memory: m}
					w.forPeople(store)
					test(w, store, func() { store.meets(nth, one) })
					hit = store.hit()
				})
			})
			if hit == "" {
				if nth <= 4 {
					t.Errorf("only %d accesses of the storage were met", nth-1)
				}
				break
			}
		}
	}
}

func TestAGrantComesThroughWhicheverAccessOfTheStorageFails(t *testing.T) {
	atEachStep(t, func(w *world, store *faulty, meet func()) {
		w.grant("old")
		meet()
		began := time.Now()
		w.grant("new")
		store.calm()
		if took := time.Since(began); took > 10*time.Second {
			w.t.Errorf("it took %v", took)
		}
		w.wantServed("canary-granted-new")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		w.wantServed("canary-granted-new")
		w.wantStored(store.memory, "canary-granted-new")
		if s := w.wantState(Fresh); s.Unsaved {
			w.t.Errorf("%+v", s)
		}
		w.wantRequests(0, 0)
		spent := w.recordSpent()
		time.Sleep(3 * time.Hour) // it is renewed, and the lock is free
		wantSpentOnce(w.t, spent())
		w.wantRequests(3, 6)
	})
}

func TestARevocationComesThroughWhicheverAccessOfTheStorageFails(t *testing.T) {
	atEachStep(t, func(w *world, store *faulty, meet func()) {
		w.grant("old")
		meet()
		began := time.Now()
		if got := w.givenBack(w.Refresher); got != "canary-granted-old" {
			w.t.Errorf("given back was %q", got)
		}
		store.calm()
		if took := time.Since(began); took > 12*time.Second {
			w.t.Errorf("it took %v", took)
		}
		if w.Current() != nil {
			w.t.Error("it is still served")
		}
		time.Sleep(2 * time.Minute)
		w.wantStored(store.memory, "")
		w.needsPerson()
		w.wantRequests(0, 0)
		w.grant("again")
		w.wantServed("canary-granted-again")
		w.wantStored(store.memory, "canary-granted-again")
	})
}

func TestAnotherNodeHearsOfAGrantWhicheverAccessOfTheStorageFails(t *testing.T) {
	atEachStep(t, func(w *world, store *faulty, meet func()) {
		other := w.node(store.memory)
		meet()
		w.grant("yes")
		store.calm()
		time.Sleep(2 * time.Minute)
		token, _, err := askFor(other)
		if err != nil || token.AccessToken != "canary-granted-yes" {
			w.t.Errorf("%v, %v", token, err)
		}
		spent := w.recordSpent()
		time.Sleep(3 * time.Hour)
		wantSpentOnce(w.t, spent())
	})
}

func TestAGrantThatCouldNotBeStoredIsStoredAtAnOrderlyEnd(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		m.set(func(m *memory) { m.failure = errors.New("it fails") })
		w.grant("yes")
		time.Sleep(5 * time.Minute) // the next try is half a minute away
		synctest.Wait()
		m.set(func(m *memory) { m.failure = nil })
		w.Finish(time.Second)
		w.wantStored(m, "canary-granted-yes")
	})
}

func TestAGrantIsStoredWhereTheConfigurationHasItsStorageByThen(t *testing.T) {
	for name, c := range map[string]struct {
		reload func(w *world, detach func(), e *Environment)
		moves  bool
	}{
		"after a reload":         {func(w *world, detach func(), e *Environment) { w.Attach(e); detach() }, true},
		"during a reload":        {func(w *world, _ func(), e *Environment) { w.Attach(e) }, true},
		"after one that failed":  {func(w *world, _ func(), e *Environment) { w.Attach(e)() }, false},
		"where it was taken out": {func(_ *world, detach func(), _ *Environment) { detach() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldWithStore(t, forPeople, func(w *world, m *memory) {
				detach := w.Attach(&Environment{Source: consented{w.provider}, Log: w.logger, Store: m})
				synctest.Wait()
				next := newShared()
				done := make(chan error, 1)
				go func() {
					_, _, err := w.Authorize(func(ctx context.Context) (*tokensource.Token, error) {
						time.Sleep(5 * time.Second)
						return w.granting("yes")(ctx)
					})
					done <- err
				}()
				time.Sleep(time.Second)
				c.reload(w, detach, &Environment{Source: consented{w.provider}, Log: zap.NewNop(), Store: next})
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if c.moves {
					w.wantStored(next, "canary-granted-yes")
				} else {
					w.wantStored(m, "canary-granted-yes")
				}
				w.wantServed("canary-granted-yes")
			})
		})
	}
}

func TestOfGrantsAtOnceTheLastOneIsServedAndStored(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		var everybody sync.WaitGroup
		for n := range 10 {
			everybody.Go(func() {
				time.Sleep(time.Duration(n) * time.Millisecond)
				w.grant(fmt.Sprint(n))
			})
		}
		everybody.Wait()
		w.wantServed("canary-granted-9")
		w.wantStored(m, "canary-granted-9")
		if s := w.wantState(Fresh); s.Counter != m.counter() || m.counter() < 10 {
			t.Errorf("%+v, stored is %d", s, m.counter())
		}
		w.wantRequests(0, 0)
	})
}

func TestAReloadWhileAPersonIsNeededAsksNobodyAndSaysItNoMore(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("yes")
		w.provider.fails(withdrawn())
		_ = w.Refresh(context.Background())
		time.Sleep(2 * time.Hour)
		w.needsPerson()
		w.log.TakeAll()
		requests := w.provider.requests()
		for range 5 {
			w.Attach(&Environment{Source: consented{w.provider}, Log: w.logger, Store: m})
			time.Sleep(time.Minute)
			w.needsPerson()
		}
		w.wantRequests(requests, requests)
		if n := w.log.FilterMessage("a person must authorize this source").Len(); n != 0 {
			t.Errorf("the log says so %d times more", n)
		}
	})
}

func TestARequestThatCannotBeSentTwiceGetsTheGrant(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		w.grant("old")
		w.provider.set(func(p *provider) { p.takes = 5 * time.Second })
		w.Report(w.Current())
		if !w.Suspect() {
			t.Fatal("nothing is suspected")
		}
		synctest.Wait()
		go w.grant("new")
		token, err := w.Unsuspected(context.Background())
		if err != nil || token.AccessToken == "canary-granted-old" {
			t.Errorf("%v, %v", token, err)
		}
		synctest.Wait()
		if w.Suspect() {
			t.Error("the grant is suspected")
		}
		w.wantServed("canary-granted-new")
	})
}
