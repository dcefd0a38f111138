package refresher

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

func TestATokenThatEndedWhileTheMachineSleptIsNotHandedOut(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = time.Second
		w.start()
		time.Sleep(10 * time.Minute)
		w.clock.move(8 * time.Hour)
		if w.Current() != nil {
			t.Error("right after waking there is still a token")
		}
		if _, err, waited := w.ask(); err != nil || waited != time.Second {
			t.Errorf("a request right after waking: after %v: %v", waited, err)
		}
		w.wantRequests(2, 2)
	})
}

func TestAfterSleepATokenIsRenewedWithoutAnyRequest(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		time.Sleep(10 * time.Minute)
		w.clock.move(8 * time.Hour)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		w.wantRequests(2, 2)
		w.served()
		time.Sleep(5 * time.Minute) // once
		w.wantRequests(2, 2)
	})
}

func TestAShortSleepBringsARenewalForward(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		w.clock.move(30 * time.Minute)
		w.served()
		each(time.Second, 23*time.Minute+5*time.Second, func() { w.served() })
		w.wantRequests(2, 2) // due after 43 to 48 minutes, of which it slept 30
	})
}

func TestAWallClockThatIsSetBackLengthensNoToken(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		w.provider.fails(&tokensource.Error{StatusCode: 503})
		w.clock.move(-24 * time.Hour)
		each(time.Second, time.Hour, func() { w.served() })
		w.refused()
	})
}

func TestAWallClockThatIsSetBackDelaysNoRenewal(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		w.clock.move(-24 * time.Hour)
		each(time.Second, 5*time.Hour, func() { w.served() })
		w.wantRequests(7, 8)
	})
}

func TestAWallClockThatKeepsJumpingStopsNothing(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 10 * time.Minute
		w.start()
		back := false
		each(time.Minute, 5*time.Hour, func() {
			if w.clock.move(3 * time.Minute); back {
				w.clock.move(-6 * time.Minute)
			}
			back = !back
			w.ask() // never one that had ended, or an error
		})
		w.wantRequests(30, 120)
	})
}

func TestABackoffEndsDuringSleep(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.fails(&tokensource.Error{StatusCode: 503, RetryAfter: time.Hour})
		w.start()
		w.provider.fails(nil)
		w.refused()
		w.clock.move(2 * time.Hour)
		w.served()
		w.wantRequests(2, 2)
	})
}

func TestAWallClockThatIsSetBackDelaysNoRetry(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.fails(down)
		w.start()
		w.provider.fails(nil)
		w.clock.move(-24 * time.Hour)
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		w.served()
		w.wantRequests(2, 2)
	})
}
