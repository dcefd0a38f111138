package refresher

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

func TestRenewalComesAtRefreshAtLessARandomTenth(t *testing.T) {
	for _, c := range []struct {
		refreshAt   float64
		least, most time.Duration
	}{{0, 72 * time.Second, 80 * time.Second}, {0.5, 45 * time.Second, 50 * time.Second}} {
		earliest, latest := time.Hour, time.Duration(0)
		for range 200 {
			inWorld(t, Options{RefreshAt: c.refreshAt}, func(w *world) {
				w.provider.lifetime = 100 * time.Second
				w.start()
				time.Sleep(81 * time.Second)
				if w.provider.requests() < 2 {
					t.Fatalf("refresh_at %v: not renewed after %v", c.refreshAt, w.elapsed())
				}
				at := w.provider.gaps()[0]
				earliest, latest = min(earliest, at), max(latest, at)
			})
		}
		if earliest < c.least || latest > c.most {
			t.Errorf("refresh_at %v: renewed after %v to %v, want %v to %v", c.refreshAt, earliest, latest, c.least, c.most)
		}
		// 200 tries leave out half of the range about once in 10^60.
		if latest-earliest < (c.most-c.least)/2 {
			t.Errorf("refresh_at %v: all were renewed within %v: a fleet marches in step", c.refreshAt, latest-earliest)
		}
	}
}

func TestARenewalUsesTheTokenBeforeIt(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		var previous []*tokensource.Token
		w.provider.does = func(_ context.Context, p *tokensource.Token) { previous = append(previous, p) }
		w.start()
		first := w.served()
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		second := w.served()
		w.provider.fails(down) // a failure does not make it forget
		time.Sleep(55 * time.Minute)
		synctest.Wait()
		if len(previous) < 4 || previous[0] != nil || previous[1] != first || previous[2] != second || previous[3] != second {
			t.Errorf("token requests were given %v", previous)
		}
	})
}

func TestATokenOfTwoSecondsIsAlwaysThere(t *testing.T) {
	for range 20 { // chance decides about the moments
		inWorld(t, Options{}, func(w *world) {
			w.provider.takes = 300 * time.Millisecond
			w.provider.lifetime = 2 * time.Second
			w.attach()
			_, err, waited := w.ask()
			if err != nil || waited != 300*time.Millisecond {
				t.Fatalf("the first request: after %v: %v", waited, err)
			}
			each(5*time.Millisecond, 15*time.Second, func() { w.served() })
			w.wantRequests(8, 12)
		})
	}
}

func TestATokenOfAnyLifetimeIsAlwaysThere(t *testing.T) {
	for _, lifetime := range []time.Duration{2 * time.Second, 10 * time.Second, time.Minute, 5 * time.Minute, time.Hour, 24 * time.Hour, month} {
		t.Run(lifetime.String(), func(t *testing.T) {
			inWorld(t, Options{}, func(w *world) {
				w.provider.takes = 200 * time.Millisecond
				w.provider.lifetime = lifetime
				w.start()
				each(lifetime/20, 20*lifetime, func() { w.served() })
				w.wantRequests(23, 35) // 20/0.8 to 20/0.72, and 20/0.62 where the provider takes a tenth
			})
		})
	}
}

func TestATokenOfAMonthIsRenewedWithoutAnyRequest(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = month
		w.start()
		time.Sleep(21 * 24 * time.Hour)
		w.wantRequests(1, 1)
		time.Sleep(4 * 24 * time.Hour)
		w.wantRequests(2, 2)
		time.Sleep(10 * month)
		w.wantRequests(13, 16)
		w.served()
	})
}

func TestATokenOfUnknownLifetimeIsNeverRenewedByItself(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 0
		w.start()
		first := w.served()
		for range 24 {
			time.Sleep(month)
			if w.served() != first {
				t.Fatalf("after %v there is another token", w.elapsed())
			}
		}
		w.wantRequests(1, 1)
		w.Report(first)
		synctest.Wait()
		if w.served() == first {
			t.Error("the token was refused and is still there")
		}
		w.wantRequests(2, 2)
	})
}

func TestASlowProviderIsAskedEarlier(t *testing.T) {
	for range 20 {
		inWorld(t, Options{RefreshAt: 0.99}, func(w *world) {
			w.provider.takes = 8 * time.Second
			w.provider.lifetime = 40 * time.Second
			w.start()
			each(100*time.Millisecond, 3*time.Minute, func() { w.served() })
		})
	}
}
