package refresher

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// An upstream refuses the last token of a grant that its provider has withdrawn:
// whoever waits for another one gets none, and the provider no storm.
func TestARefusedTokenOfAWithdrawnGrantIsNoLoopTowardsTheProvider(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		w.grant("yes")
		w.provider.set(func(p *provider) { p.err, p.takes = withdrawn(), 10*time.Millisecond })
		time.Sleep(50 * time.Minute)
		w.wantRequests(1, 1)
		for range 3 {
			refused := w.Current()
			if refused == nil {
				break
			}
			w.Report(refused)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if token, _ := w.Replacement(ctx, refused); token != nil {
				t.Errorf("there is another: %v", token)
			}
			cancel()
			time.Sleep(time.Second)
		}
		w.wantRequests(1, 1)
	})
}

// A hundred requests at once each wait for one look, and not for those of the
// others as well.
func TestManyRequestsAtOnceWithoutAGrantAreAllAnsweredSoon(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		time.Sleep(time.Second)
		var longest atomic.Int64
		var everybody sync.WaitGroup
		for range 100 {
			everybody.Go(func() {
				if _, waited, err := askFor(w.Refresher); err == nil || int64(waited) > longest.Load() {
					longest.Store(int64(waited))
				}
			})
		}
		everybody.Wait()
		if got := time.Duration(longest.Load()); got > 3*grantEvery {
			t.Errorf("one of them waited %v", got)
		}
	})
}

func TestARequestIsAnsweredSoonHoweverManyOthersCome(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		time.Sleep(time.Second)
		var longest atomic.Int64
		var everybody sync.WaitGroup
		for range 200 { // one each 7 ms
			everybody.Go(func() {
				if _, waited, err := askFor(w.Refresher); err == nil || int64(waited) > longest.Load() {
					longest.Store(int64(waited))
				}
			})
			time.Sleep(7 * time.Millisecond)
		}
		everybody.Wait()
		if got := time.Duration(longest.Load()); got > 3*grantEvery {
			t.Errorf("one of them waited %v", got)
		}
	})
}

// done is a storage that does what it is told, and says that it failed.
type done struct {
	*memory
	lies atomic.Bool
}

func (d *done) Save(ctx context.Context, r *Record) error {
	err := d.memory.Save(ctx, r)
	if d.lies.Load() {
		return errors.New("it is done, and fails")
	}
	return err
}

// Another node may have gone on with a grant whose storing has failed only for us.
func TestAGrantThatWasStoredAllTheSameDoesNotOutrankItsOwnRenewal(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		store := &done{memory: m}
		w.forPeople(store)
		spent := w.recordSpent()
		store.lies.Store(true)
		w.grant("yes")
		time.Sleep(100 * time.Millisecond)
		store.lies.Store(false)
		other := w.node(m)
		other.Report(other.Current())
		synctest.Wait()
		w.wantStored(m, "canary-access-main-1")
		time.Sleep(time.Minute)
		w.wantStored(m, "canary-access-main-1")
		time.Sleep(3 * time.Hour)
		wantSpentOnce(t, spent())
	})
}

func TestAGrantThatWasPerhapsStoredIsNotRenewedWhileTheStorageFails(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		store := &done{memory: m}
		broken := &breaks{done: store}
		w.forPeople(broken)
		spent := w.recordSpent()
		store.lies.Store(true)
		w.grant("yes")
		broken.down.Store(true)
		other := w.node(m)
		other.Report(other.Current())
		synctest.Wait()
		w.wantStored(m, "canary-access-main-1")
		w.Report(w.Current())
		time.Sleep(5 * time.Second)
		wantSpentOnce(t, spent())
		store.lies.Store(false)
		broken.down.Store(false)
		time.Sleep(3 * time.Hour)
		wantSpentOnce(t, spent())
	})
}

// breaks is a storage that one node cannot reach.
type breaks struct {
	*done
	down atomic.Bool
}

var errDown = errors.New("it cannot be reached")

func (b *breaks) Load(ctx context.Context) (*Record, error) {
	if b.down.Load() {
		return nil, errDown
	}
	return b.done.Load(ctx)
}

func (b *breaks) Save(ctx context.Context, r *Record) error {
	if b.down.Load() {
		return errDown
	}
	return b.done.Save(ctx, r)
}

// slowSaves is a storage whose writes take long to arrive.
type slowSaves struct {
	*memory
	takes atomic.Int64
}

func (s *slowSaves) Save(ctx context.Context, r *Record) error {
	time.Sleep(time.Duration(s.takes.Load()))
	return s.memory.Save(ctx, r)
}

// The renewal has looked for something newer, and stores what it got, just as a
// person authorizes the source elsewhere.
func TestARenewalThatIsBeingStoredDoesNotComeOutOnTopOfAGrant(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("old")
		slow := &slowSaves{memory: m}
		other := w.node(slow)
		slow.takes.Store(int64(3 * time.Second))
		other.Report(other.Current())
		time.Sleep(500 * time.Millisecond)
		w.wantRequests(1, 1)
		if !w.grant("new") {
			t.Error("it is not stored")
		}
		slow.takes.Store(0)
		time.Sleep(2 * time.Minute)
		w.wantStored(m, "canary-granted-new")
		w.wantServed("canary-granted-new")
		if got := other.Current(); got == nil || got.AccessToken != "canary-granted-new" {
			t.Errorf("the other node serves %v", got)
		}
	})
}

func TestARevocationHoldsNobodyUp(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		w.grant("yes")
		began := time.Now()
		w.givenBack(w.Refresher)
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v, although nobody has the lock", took)
		}
	})
}

func TestARevocationWhoseTurnComesLateHasAllItsTime(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		w.grant("yes")
		w.provider.set(func(p *provider) { p.takes = time.Hour })
		w.Report(w.Current())
		time.Sleep(time.Millisecond)
		var left time.Duration
		if err := w.Revoke(func(ctx context.Context, _ *tokensource.Token) error {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			return ctx.Err()
		}); err != nil {
			t.Errorf("not revoked: %v", err)
		}
		if left < DefaultTimeout/2 {
			t.Errorf("it had %v", left)
		}
	})
}

// The code of a grant can be sent once: what came for it must not be lost where
// something else has the turn for long.
func TestAGrantIsNotLostWhereItsTurnComesLate(t *testing.T) {
	inWorldWithStore(t, forPeople, func(w *world, m *memory) {
		w.forPeople(m)
		newest := <-w.Refresher.options.Lineage.newest
		go func() {
			time.Sleep(3 * DefaultTimeout)
			w.Refresher.options.Lineage.newest <- newest
		}()
		token, _, err := w.Authorize(w.granting("yes"))
		if err != nil {
			t.Errorf("it is lost: %v, %v", token != nil, err)
		}
		time.Sleep(3 * DefaultTimeout)
		synctest.Wait()
		if got := w.Current(); got == nil || got.AccessToken != "canary-granted-yes" {
			t.Errorf("%v is served", got)
		}
	})
}

func TestAGrantIsNotLostWhereTheRefresherEndsBeforeItsTurn(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		newest := <-w.Refresher.options.Lineage.newest // another configuration renews
		done := make(chan error, 1)
		go func() {
			_, _, err := w.Authorize(func(ctx context.Context) (*tokensource.Token, error) {
				time.Sleep(time.Second)
				return w.granting("yes")(ctx)
			})
			done <- err
		}()
		synctest.Wait()
		go w.Close(time.Minute)
		time.Sleep(2 * time.Second)
		w.Refresher.options.Lineage.newest <- newest
		if err := <-done; err != nil {
			t.Errorf("it is lost: %v", err)
		}
		w.wantStored(m, "canary-granted-yes")
	})
}

// A grant lands while the outcome of a renewal is on its way from the provider to
// the refresher.
func TestAGrantThatOvertakesARenewalIsRenewedInTime(t *testing.T) {
	inWorldWithStore(t, forPeople, func(w *world, _ *memory) {
		var hold atomic.Bool
		w.now = func() time.Time {
			if hold.CompareAndSwap(true, false) {
				time.Sleep(time.Second)
			}
			return w.clock.now()
		}
		w.forPeople(nil)
		w.grant("old")
		w.provider.set(func(p *provider) { p.takes = 5 * time.Second })
		w.Report(w.Current())
		synctest.Wait()
		go func() { _, _, _ = w.Authorize(w.grantingAt("new", w.clock.now)) }()
		time.Sleep(time.Second)
		hold.Store(true)
		time.Sleep(time.Minute)
		if hold.Load() {
			t.Error("the renewal did not look at the clock")
		}
		w.wantServed("canary-granted-new")
		if in := w.Status().NextRenewal.Sub(w.Current().Issued); in > 49*time.Minute {
			t.Errorf("it is renewed %v after it was issued", in)
		}
	})
}

// A look that began in a pause, and has its turn after the grant, must not bring
// that pause back.
func TestALookThatEndsAfterAGrantLeavesItsRenewalWhereItIs(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.provider.lifetime = 2 * time.Hour
		w.grant("old")
		w.provider.fails(&tokensource.Error{StatusCode: 429, RetryAfter: 100 * time.Minute})
		_ = w.Refresh(context.Background())
		synctest.Wait()
		m.set(func(m *memory) { m.hangs = time.Second })
		w.provider.lifetime = time.Hour
		go func() { _, _, _ = w.Authorize(w.granting("new")) }()
		time.Sleep(100 * time.Millisecond)
		w.Report(w.Current()) // looks for what another node has stored
		m.set(func(m *memory) { m.hangs = 0 })
		time.Sleep(time.Minute)
		synctest.Wait()
		w.provider.fails(nil)
		w.wantServed("canary-granted-new")
		if in := w.Status().NextRenewal.Sub(w.Current().Issued); in > 48*time.Minute {
			t.Errorf("it is renewed %v after it was issued", in)
		}
	})
}

func TestTheStatusTellsTheCounterOfAGrantThatWasStoredLater(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		m.set(func(m *memory) { m.failure = errors.New("it fails") })
		w.grant("yes")
		m.set(func(m *memory) { m.failure = nil })
		time.Sleep(time.Minute)
		w.wantStored(m, "canary-granted-yes")
		if s := w.Status(); s.Unsaved || s.Counter != m.counter() {
			t.Errorf("%+v, stored is %d", s, m.counter())
		}
	})
}

func TestAnExchangeWithoutTokenAndWithoutErrorIsAFailure(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("old")
		if _, _, err := w.Authorize(func(context.Context) (*tokensource.Token, error) { return nil, nil }); err == nil {
			t.Error("it is none")
		}
		w.wantServed("canary-granted-old")
		w.wantStored(m, "canary-granted-old")
	})
}

// Another refresher of the same lineage, as when an option of the source has
// changed.
func TestARefresherForgetsWhatAnotherOfItsLineageHasRevoked(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		options := w.as
		options.Lineage = w.Refresher.options.Lineage
		next := New(options)
		next.now = w.clock.now
		w.others = append(w.others, next)
		w.grant("yes")
		next.Attach(&Environment{Source: consented{w.provider}, Log: zap.NewNop(), Store: m})
		synctest.Wait()
		if next.Current() == nil {
			t.Fatal("it has no token")
		}
		w.givenBack(w.Refresher)
		next.Report(next.Current())
		synctest.Wait()
		if got := next.Current(); got != nil {
			t.Errorf("%s is served", got.AccessToken)
		}
	})
}

// Where the entry cannot be read, a request on another node finds the grant too.
func TestARequestRightAfterAGrantOverAnUnreadableEntryIsServed(t *testing.T) {
	inWorldWithStore(t, forPeople, func(w *world, m *memory) {
		m.reads = &Unreadable{Reason: "the entry is damaged"}
		w.forPeople(m)
		other := w.node(m)
		time.Sleep(20 * time.Second)
		_, _, _ = askFor(other)
		time.Sleep(time.Second)
		w.grant("yes")
		if token, waited, err := askFor(other); err != nil || token.AccessToken != "canary-granted-yes" || waited > time.Second {
			t.Errorf("%v, %v after %v", token, err, waited)
		}
	})
}

func TestNobodyWaitsAfterCloseForWhatARevocationWantedNext(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		w.grant("yes")
		refused := w.Current()
		go func() {
			_ = w.Revoke(func(context.Context, *tokensource.Token) error {
				time.Sleep(5 * time.Second)
				return nil
			})
		}()
		synctest.Wait()
		w.Close(time.Minute)
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		began := time.Now()
		w.Replacement(ctx, refused)
		if took := time.Since(began); took > time.Second {
			t.Errorf("somebody waited %v for another token", took)
		}
	})
}

// The access token of a grant has ended when this node hears of it; its refresh
// token has not.
func TestAGrantOfWhichAnotherNodeHearsLateIsGoneOnWith(t *testing.T) {
	for name, look := range map[string]func(*world, *Refresher){
		"by a request": func(*world, *Refresher) {},
		"by a look":    func(_ *world, r *Refresher) { r.Look(context.Background()) },
		"by itself":    func(*world, *Refresher) { time.Sleep(watchEvery) },
	} {
		t.Run(name, func(t *testing.T) {
			awaiting(t, func(w *world, m *memory) {
				m.set(func(m *memory) { m.failure = errDown })
				time.Sleep(3 * time.Hour)
				m.set(func(m *memory) { m.failure = nil })
				m.holding(w.stored(50, 2*time.Hour), "canary-refresh-late") // by a node that is gone since
				look(w, w.Refresher)
				synctest.Wait()
				if token, waited, err := askFor(w.Refresher); err != nil || waited > time.Second {
					t.Errorf("%v, %v after %v", token, err, waited)
				}
				w.wantRequests(1, 1)
				w.wantState(Fresh)
			})
		})
	}
}

func TestTheEndOfATokenIsOneLineInTheLogHoweverManyRequestsComeAfterIt(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		w.grant("yes")
		w.provider.fails(withdrawn())
		_ = w.Refresh(context.Background())
		time.Sleep(time.Hour)
		each(time.Second, time.Minute, w.needsPerson)
		if n := w.log.FilterMessage("the token has ended, and there is no other").Len(); n != 1 {
			t.Errorf("the log says so %d times", n)
		}
	})
}
