package refresher

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// replace reports a token and waits for the next, for a minute at most.
func (w *world) replace() (replaced, fresh bool, waited time.Duration) {
	w.t.Helper()
	refused := w.served()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	caused := w.Report(refused)
	token, fresh := w.Replacement(ctx, refused)
	if token != nil && caused {
		w.Cured()
	}
	return token != nil && token != refused, fresh, time.Since(began)
}

func TestAllWhoseTokenWasRefusedGetTheSameNewOne(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		w.provider.set(func(p *provider) { p.takes = time.Second })
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if replaced, fresh, waited := w.replace(); !replaced || !fresh || waited != time.Second {
					t.Errorf("replaced %v, fresh %v, after %v", replaced, fresh, waited)
				}
			})
		}
		all.Wait()
		w.wantRequests(2, 2)
	})
}

func TestATokenThatWasThereBeforeTheRefusalIsNotFresh(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		old := w.served()
		w.Report(old)
		synctest.Wait()
		token, fresh := w.Replacement(context.Background(), old)
		if token == nil || token == old || fresh {
			t.Errorf("there is %v, fresh %v", token, fresh)
		}
		w.wantRequests(2, 2)
	})
}

func TestATokenOfARenewalThatHadBegunBeforeTheRefusalIsNotFresh(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 100 * time.Second
		w.start()
		w.provider.set(func(p *provider) { p.takes = 10 * time.Second })
		w.untilRequest(2)
		if replaced, fresh, _ := w.replace(); !replaced || fresh {
			t.Errorf("replaced %v, fresh %v", replaced, fresh)
		}
	})
}

func TestThereIsNoReplacementWhereNoneCanBeHad(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		w.provider.set(func(p *provider) { p.takes, p.err = time.Second, down })
		if replaced, _, waited := w.replace(); replaced || waited != time.Second {
			t.Errorf("the provider is down: replaced %v after %v", replaced, waited)
		}
		if replaced, _, waited := w.replace(); replaced || waited != 0 {
			t.Errorf("in the pause after that: replaced %v after %v", replaced, waited)
		}
		w.provider.fails(nil)
		time.Sleep(time.Minute)
		w.provider.set(func(p *provider) { p.takes = time.Hour })
		if replaced, _, waited := w.replace(); replaced || waited != 20*time.Second {
			t.Errorf("the provider hangs: replaced %v after %v", replaced, waited)
		}
	})
}

func TestShortPausesOfShortLivedTokensAreWaitedFor(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 3 * time.Second
		w.start()
		w.provider.fails(down)
		time.AfterFunc(600*time.Millisecond, func() { w.provider.fails(nil) })
		if replaced, _, waited := w.replace(); !replaced || waited < 200*time.Millisecond || waited > 2*time.Second {
			t.Errorf("replaced %v after %v", replaced, waited)
		}
		w.provider.fails(down)
		time.Sleep(3 * time.Second)
		time.AfterFunc(100*time.Millisecond, func() { w.provider.fails(nil) })
		if _, err := w.Token(context.Background()); err != nil && w.waitedFor {
			t.Errorf("a request did not wait: %v", err)
		}
	})
}

func TestRefusalsThatWereCuredMayCauseAnotherTokenRequestAtOnce(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		for i := range 1 + curedAgain {
			if replaced, _, waited := w.replace(); !replaced || waited != 0 {
				t.Errorf("revocation %d: replaced %v after %v", i, replaced, waited)
			}
			time.Sleep(time.Second)
		}
		if replaced, _, _ := w.replace(); replaced {
			t.Error("there is no end to it")
		}
	})
}

// Half of the nodes of an upstream refuse everything: each second refusal is
// cured by the next token.
func TestAnUpstreamThatRefusesHalfOfEverythingIsNoStorm(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		n := 0
		each(20*time.Millisecond, 10*time.Minute, func() {
			if n++; n%2 == 0 {
				w.replace()
			}
			if n == 3000 {
				w.wantRequests(5, 12) // after a minute
			}
		})
		w.wantRequests(10, 50)
	})
}

func TestARequestThatCannotBeSentTwiceWaitsForTheNextToken(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		suspect := w.served()
		w.provider.set(func(p *provider) { p.takes = 3 * time.Second })
		w.Report(suspect)
		if !w.Suspect() {
			t.Error("the token is not suspect")
		}
		began := time.Now()
		token, err := w.Unsuspected(context.Background())
		if err != nil || token == suspect || time.Since(began) != 3*time.Second {
			t.Errorf("got %v, %v after %v", token, err, time.Since(began))
		}
		if w.Suspect() {
			t.Error("the new token is suspect")
		}

		// It does not wait for ever, nor where the token was not to blame before.
		time.Sleep(time.Hour - time.Minute)
		current := w.served()
		w.provider.set(func(p *provider) { p.takes = time.Hour })
		w.Report(current)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if token, err := w.Unsuspected(ctx); err != nil || token != current {
			t.Errorf("got %v, %v", token, err)
		}
	})
}

func TestARefusalThatIsNotCuredHoldsUpNobody(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		w.Report(w.served())
		synctest.Wait()
		time.Sleep(6 * time.Second)
		w.provider.set(func(p *provider) { p.takes = time.Second })
		w.Report(w.served()) // of the fresh token: it was not to blame
		if w.Suspect() {
			t.Error("the token is suspect all the same")
		}
	})
}
