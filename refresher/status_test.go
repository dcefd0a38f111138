package refresher

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// wantState compares the state alone.
func (w *world) wantState(want State) Status {
	w.t.Helper()
	s := w.Status()
	if s.State != want {
		w.t.Errorf("after %v the state is %s, want %s: %+v", w.elapsed(), s.State, want, s)
	}
	return s
}

func TestTheStatusSaysHowASourceIs(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = time.Second
		if s := w.wantState(NoToken); s.Token != nil || s.Failure != nil || !s.NextRenewal.IsZero() || !s.LastRenewal.IsZero() {
			t.Errorf("before it is attached: %+v", s)
		}
		w.attach()
		synctest.Wait()
		if s := w.wantState(NoToken); s.Failure != nil {
			t.Errorf("during its first token request: %+v", s)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		landed := w.now()
		s := w.wantState(Fresh)
		if s.Token != w.served() || !s.LastRenewal.Equal(landed) || s.Failure != nil || s.Failures != 0 || !s.RetryAt.IsZero() {
			t.Errorf("%+v", s)
		}
		if in := s.NextRenewal.Sub(landed); in < 43*time.Minute || in > 48*time.Minute {
			t.Errorf("the next renewal is in %v", in)
		}
		w.provider.fails(down)
		time.Sleep(50 * time.Minute)
		s = w.wantState(Stale)
		if s.Token == nil || s.Failure != down || s.Failures < 2 || s.RetryAt.IsZero() || !s.NextRenewal.Equal(s.RetryAt) || !s.LastRenewal.Equal(landed) {
			t.Errorf("while the provider is down: %+v", s)
		}
		time.Sleep(20 * time.Minute)
		if s := w.wantState(NoToken); s.Token != nil || !s.LastRenewal.IsZero() || s.RetryAt.IsZero() {
			t.Errorf("after the token's end: %+v", s)
		}
		w.provider.fails(rejected(nil))
		time.Sleep(2 * time.Minute)
		if s := w.wantState(NoToken); !s.Failure.Permanent || !s.RetryAt.IsZero() || !s.NextRenewal.IsZero() {
			t.Errorf("where the client is refused: %+v", s)
		}
	})
}

func TestATokenThatAnUpstreamHasRefusedIsStaleUntilAnotherIsThere(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		w.provider.set(func(p *provider) { p.takes = time.Second })
		w.Report(w.Current())
		w.wantState(Stale)
		time.Sleep(time.Second)
		synctest.Wait()
		w.wantState(Fresh)
	})
}

func TestTheStatusAsksNobodyAndTellsTheCounterOfTheStorage(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		m.record = w.stored(41, time.Minute)
		w.withStore(m)
		if s := w.wantState(Fresh); s.Counter != 41 || s.Unsaved {
			t.Errorf("adopted: %+v", s)
		}
		w.Report(w.Current())
		synctest.Wait()
		if s := w.wantState(Fresh); s.Counter != 42 {
			t.Errorf("obtained: %+v", s)
		}
		requests := w.provider.requests()
		each(time.Second, time.Minute, func() { w.Status() })
		w.wantRequests(requests, requests)
	})
}

func TestALookFindsWhatAPersonHasDoneOnAnotherNode(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		other := w.node(m)
		other.Look(context.Background())
		if s := other.Status(); s.State != NeedsAuthorization {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Second)
		w.grant("yes")
		other.Look(context.Background())
		if s := other.Status(); s.State != Fresh || s.Token.AccessToken != "canary-granted-yes" {
			t.Errorf("%+v", s)
		}
		w.wantRequests(0, 0)
	})
}

func TestALookIsWhereAPersonIsNeededAlone(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		store := counted{m, new(atomic.Int64)}
		w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: store})
		synctest.Wait()
		before := store.loads.Load()
		w.Look(context.Background())
		w.provider.fails(down)
		w.Report(w.Current())
		time.Sleep(time.Second / 2)
		middle := store.loads.Load()
		w.Look(context.Background())
		if after := store.loads.Load(); after != middle || before == 0 {
			t.Errorf("it looked: %d, %d, %d", before, middle, after)
		}
	})
}

func TestALookWaitsNoLongerThanItsContext(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		time.Sleep(time.Minute)
		m.set(func(m *memory) { m.hangs = time.Second })
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		w.Look(ctx)
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		time.Sleep(time.Minute)
	})
}

func TestARefreshAsksNowWhateverWasAnswered(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = time.Second
		w.start()
		first := w.served()
		refresh := func(want error) {
			t.Helper()
			before := w.provider.requests()
			began := time.Now()
			err := w.Refresh(context.Background())
			if (want == nil) != (err == nil) || want != nil && err != want {
				t.Errorf("%v, want %v", err, want)
			}
			if n := w.provider.requests() - before; n != 1 || time.Since(began) != time.Second {
				t.Errorf("%d token requests in %v", n, time.Since(began))
			}
			synctest.Wait()
		}
		refresh(nil) // although the token is fresh
		if w.served() == first {
			t.Error("the token is the same")
		}
		w.provider.fails(down)
		refresh(down)
		refresh(down) // in its pause
		w.wantState(Stale)
		refused := rejected(nil)
		w.provider.fails(refused)
		refresh(refused)
		refresh(refused) // after a refusal that is permanent
		w.provider.fails(nil)
		refresh(nil)
		w.wantState(Fresh)
	})
}

func TestRefreshesAtOnceAreOneTokenRequestAndJoinTheOneUnderWay(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = 5 * time.Second
		w.attach()
		time.Sleep(time.Second)
		var everybody sync.WaitGroup
		for range 20 {
			everybody.Go(func() {
				if err := w.Refresh(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		everybody.Wait()
		if got := w.elapsed(); got != 5*time.Second {
			t.Errorf("it took %v", got)
		}
		w.wantRequests(1, 1)
	})
}

func TestARefreshWaitsNoLongerThanItsContextAndTheTokenComesAllTheSame(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		first := w.served()
		w.provider.set(func(p *provider) { p.takes = 5 * time.Second })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := w.Refresh(ctx)
		if e, ok := err.(*tokensource.Error); !ok || e.Reason != "the token request has not ended yet" {
			t.Errorf("%v", err)
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if w.served() == first {
			t.Error("it did not come")
		}
	})
}

func TestARefreshAsksTheProviderAlsoWhereTheStorageHasAnotherToken(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		w.withStore(m)
		m.set(func(m *memory) { m.record = w.stored(9, 0) })
		if err := w.Refresh(context.Background()); err != nil {
			t.Error(err)
		}
		w.wantRequests(2, 2)
		if m.counter() != 10 || w.served().AccessToken != "canary-access-main-2" {
			t.Errorf("%d, %s", m.counter(), w.served().AccessToken)
		}
	})
}

func TestARefreshDuringALookIsATokenRequest(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("yes")
		w.provider.fails(withdrawn())
		if err := w.Refresh(context.Background()); err == nil {
			t.Error("no error")
		}
		w.wantRequests(1, 1)
		w.provider.fails(nil)
		time.Sleep(time.Minute)
		m.set(func(m *memory) { m.hangs = time.Second })
		go w.Look(context.Background())
		synctest.Wait()
		m.set(func(m *memory) { m.hangs = 0 })
		if err := w.Refresh(context.Background()); err != nil {
			t.Error(err)
		}
		w.wantRequests(2, 2)
		w.wantState(Fresh)
	})
}

func TestARefreshBeforeAnybodyHasAuthorizedSaysSoAndAsksNobody(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		err := w.Refresh(context.Background())
		if e, ok := err.(*tokensource.Error); !ok || !e.AuthorizationRequired || e.Code != "authorization_required" {
			t.Errorf("%v", err)
		}
		w.wantRequests(0, 0)
		w.wantState(NeedsAuthorization)
	})
}

func TestARefreshWhileTheStorageFailsSpendsNothingThatOthersMayHave(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("yes")
		m.set(func(m *memory) { m.failure = errors.New("no space left on device") })
		if err := w.Refresh(context.Background()); err == nil {
			t.Error("no error")
		}
		w.wantRequests(0, 0)
		w.wantServed("canary-granted-yes")
		m.set(func(m *memory) { m.failure = nil })
	})
}
