package refresher

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

func TestARefusedTokenStaysInUseUntilOneNewOneIsThere(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		suspect := w.served()
		w.provider.set(func(p *provider) { p.takes = time.Second })
		var everybody sync.WaitGroup
		for range 200 {
			everybody.Go(func() {
				w.Report(suspect)
				if w.served() != suspect {
					t.Error("there is another token before the provider has answered")
				}
			})
		}
		everybody.Wait()
		if took := w.elapsed(); took != 0 {
			t.Errorf("Report waited %v", took)
		}
		time.Sleep(time.Second - time.Nanosecond)
		if w.served() != suspect {
			t.Error("there is another token before the provider has answered")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if w.served() == suspect {
			t.Error("the provider has answered, and there is no other token")
		}
		w.wantRequests(2, 2)
	})
}

func TestARefusalOfAnotherTokenThanTheCurrentOneMeansNothing(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		old := w.served()
		w.Report(old)
		synctest.Wait()
		w.wantRequests(2, 2)
		time.Sleep(time.Minute) // past the pause
		for range 100 {
			w.Report(old)
			time.Sleep(time.Second)
		}
		w.wantRequests(2, 2)
		w.Report(w.served()) // and did not use up the pause
		synctest.Wait()
		w.wantRequests(3, 3)
	})
}

func TestReportOfNoTokenDoesNothing(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.Report(nil)
		w.provider.lifetime = time.Minute
		w.start()
		w.provider.fails(&tokensource.Error{StatusCode: 503, RetryAfter: time.Hour})
		w.Report(w.served())
		synctest.Wait()
		w.mu.Lock()
		w.stopTimer()
		w.mu.Unlock()
		w.current.Store(nil)
		time.Sleep(2 * time.Hour)
		before := w.provider.requests()
		w.Report(nil)
		synctest.Wait()
		w.wantRequests(before, before)
	})
}

func TestARefusedTokenStaysInUseWhenNoOtherCanBeHadForAPassingReason(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		suspect := w.served()
		w.provider.fails(down)
		each(100*time.Millisecond, 30*time.Second, func() {
			if w.served() != suspect {
				t.Fatal("there is another token")
			}
			w.Report(suspect)
		})
		w.wantRequests(5, 7) // the first, the refusal, and tries 1, 3, 7, 15, 31 s after it
		w.provider.fails(nil)
		time.Sleep(time.Minute)
		if w.served() == suspect {
			t.Error("the provider is well again, and there is no other token")
		}
	})
}

func TestARefusedTokenIsDroppedWhenTheGrantIsDead(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		w.provider.fails(rejected(nil))
		w.provider.set(func(p *provider) { p.takes = time.Second })
		suspect := w.served()
		w.Report(suspect)
		time.Sleep(time.Second - time.Nanosecond)
		w.served()
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if u := w.refused(); !u.Permanent {
			t.Errorf("%#v", u)
		}
	})
}

func TestATokenRefusedDuringItsRenewalIsDroppedWhenTheGrantIsDead(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 100 * time.Second
		w.start()
		w.provider.set(func(p *provider) { p.takes, p.err = 5*time.Second, rejected(nil) })
		w.untilRequest(2)
		w.Report(w.served())
		time.Sleep(5 * time.Second)
		synctest.Wait()
		w.refused()
		w.wantRequests(2, 2)
	})
}

func TestATokenRefusedDuringABackoffIsDroppedWhenTheGrantIsDead(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 1000 * time.Second
		w.start()
		w.provider.fails(&tokensource.Error{StatusCode: 503, RetryAfter: time.Minute})
		w.untilRequest(2)
		w.Report(w.served())
		synctest.Wait()
		w.served()
		w.wantRequests(2, 2) // a refusal does not break into a backoff
		w.provider.fails(rejected(nil))
		time.Sleep(67 * time.Second)
		synctest.Wait()
		w.wantRequests(3, 3)
		w.refused()
	})
}

func TestATokenRefusedAfterTheGrantWasFoundDeadIsDropped(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 1000 * time.Second
		w.start()
		w.provider.fails(rejected(nil))
		time.Sleep(801 * time.Second)
		synctest.Wait()
		w.Report(w.served())
		w.refused()
		w.wantRequests(2, 2)
	})
}

func TestANewTokenIsNotSuspectedForTheOldOne(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 1000 * time.Second
		w.start()
		w.provider.fails(down)
		w.Report(w.served()) // suspect, and stays so while the provider is down
		time.Sleep(10 * time.Second)
		w.provider.fails(nil)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		token := w.served()
		before := w.provider.requests()
		w.provider.fails(rejected(nil))
		time.Sleep(801 * time.Second)
		synctest.Wait()
		w.wantRequests(before+1, before+1)
		if w.served() != token {
			t.Error("a token that nobody refused was dropped")
		}
	})
}

func TestAnUpstreamThatRefusesEverythingIsNoStormAtTheProvider(t *testing.T) {
	for _, takes := range []time.Duration{0, 300 * time.Millisecond, 4 * time.Second} {
		inWorld(t, Options{}, func(w *world) {
			w.provider.takes = takes
			w.start()
			each(20*time.Millisecond, time.Minute, func() { w.Report(w.served()) })
			w.wantRequests(4, 5)
			if first := w.provider.gaps()[0]; first > takes+20*time.Millisecond {
				t.Errorf("the first refusal was reckoned with after %v", first)
			}

			time.Sleep(30 * time.Minute) // quiet
			before := w.provider.requests()
			w.Report(w.served())
			synctest.Wait()
			w.wantRequests(before+1, before+1)
		})
	}
}

func TestThePauseBetweenRefusalsGrowsToTenMinutes(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 0
		w.start()
		each(time.Second, 3*time.Hour, func() { w.Report(w.served()) })
		want := 5 * time.Second
		for i, gap := range w.provider.gaps()[1:] {
			if gap < want || gap > want+time.Second {
				t.Errorf("pause %d was %v, want %v", i+1, gap, want)
			}
			want = min(2*want, 10*time.Minute)
		}
		w.wantRequests(22, 26)
	})
}

func TestRefusalsOfASlowCallerDoubleThePauseToo(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 0
		w.start()
		each(11*time.Second, time.Hour, func() { w.Report(w.served()) })
		w.wantRequests(8, 20)
	})
}

func TestEachRevocationOfALongRunIsCuredAtOnce(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 0
		w.start()
		revoked := 0
		each(5*time.Minute, 2*time.Hour, func() {
			token := w.served()
			w.Report(token)
			synctest.Wait()
			if w.served() == token {
				t.Errorf("after %v a revoked token was not renewed at once", w.elapsed())
			}
			revoked++
		})
		w.wantRequests(1+revoked, 1+revoked)
	})
}

func TestARefusalDuringARenewalCausesNoTokenRequestOfItsOwn(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 100 * time.Second
		w.provider.takes = 10 * time.Second
		w.start()
		w.untilRequest(2)
		w.Report(w.served())
		time.Sleep(10 * time.Second)
		w.served()
		w.wantRequests(2, 2)
	})
}
