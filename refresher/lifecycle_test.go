package refresher

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// another returns a second environment, with a provider of its own.
func (w *world) another(name string) (*provider, *Environment) {
	p := &provider{name: name, now: w.clock.now, lifetime: month}
	return p, &Environment{Source: p, Log: zap.NewNop()}
}

func TestAnUnchangedSourceKeepsItsTokenAcrossAReload(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		detach := w.attach()
		synctest.Wait()
		first := w.served()
		p, e := w.another("second")
		w.Attach(e)
		detach()
		each(time.Second, time.Minute, func() {
			if w.served() != first {
				t.Fatal("there is another token")
			}
		})
		w.wantRequests(1, 1)
		if n := p.requests(); n != 0 {
			t.Errorf("the new configuration made %d token requests", n)
		}
		time.Sleep(48 * time.Minute)
		synctest.Wait()
		w.wantRequests(1, 1)
		if w.served().AccessToken != "canary-access-second-1" {
			t.Errorf("it was not the new configuration that renewed the token, but %v", w.served())
		}
	})
}

func TestTheNewestEnvironmentIsUsedWhileTheOldOneIsStillThere(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		p, e := w.another("second")
		w.Attach(e)
		time.Sleep(49 * time.Minute)
		synctest.Wait()
		if p.requests() != 1 {
			t.Errorf("the new configuration made %d token requests", p.requests())
		}
		w.wantRequests(1, 1)
	})
}

func TestAReloadThatFailsFallsBackToTheEnvironmentBefore(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		for range 10 {
			p, e := w.another("refused")
			detach := w.Attach(e)
			detach()
			detach() // only once
			if p.requests() != 0 {
				t.Error("a refused configuration made a token request")
			}
		}
		time.Sleep(49 * time.Minute)
		synctest.Wait()
		w.wantRequests(2, 2)
		w.served()
	})
}

func TestDetachTakesBackItsOwnEnvironmentAndNoOther(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		detachFirst := w.attach()
		synctest.Wait()
		second, e2 := w.another("second")
		third, e3 := w.another("third")
		detachSecond := w.Attach(e2)
		detachThird := w.Attach(e3)
		detachSecond()
		detachSecond()
		detachFirst()
		time.Sleep(49 * time.Minute)
		synctest.Wait()
		if second.requests() != 0 || third.requests() != 1 {
			t.Errorf("the detached one made %d token requests, the attached one %d", second.requests(), third.requests())
		}
		detachThird()
		time.Sleep(month)
		synctest.Wait()
		if third.requests() != 1 {
			t.Errorf("after all were detached there were %d token requests", third.requests()-1)
		}
		w.attach() // what is due is done now
		synctest.Wait()
		w.served()
		w.wantRequests(2, 2)
	})
}

func TestAReloadDoesNotBreakIntoABackoff(t *testing.T) {
	for name, failure := range map[string]*tokensource.Error{
		"passing":   {StatusCode: 503, RetryAfter: 10 * time.Minute},
		"permanent": rejected(nil),
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, Options{}, func(w *world) {
				w.provider.fails(failure)
				detach := w.attach()
				for range 50 {
					time.Sleep(time.Second)
					next := w.attach()
					detach()
					detach = next
				}
				w.refused()
				w.wantRequests(1, 1)
			})
		})
	}
}

func TestAReloadDoesNotDisturbTheTokenRequestUnderWay(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = time.Second
		detach := w.attach()
		synctest.Wait()
		p, e := w.another("second")
		w.Attach(e)
		detach()
		if _, err, waited := w.ask(); err != nil || waited != time.Second {
			t.Errorf("after %v: %v", waited, err)
		}
		w.wantRequests(1, 1)
		if p.requests() != 0 {
			t.Error("there were two token requests")
		}
	})
}

func TestCloseWaitsForTheTokenRequestUnderWay(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = 3 * time.Second
		w.attach()
		time.Sleep(time.Second)
		w.Close(4 * time.Second)
		if w.elapsed() != 3*time.Second {
			t.Errorf("Close returned after %v, want 3s", w.elapsed())
		}
		synctest.Wait()
		if w.provider.running != 0 {
			t.Error("Close returned before the token request")
		}
		w.served() // those who are drained need it still
		time.Sleep(time.Hour)
		if u := w.refused(); u.Cause == nil || u.Permanent || u.RetryAfter != 0 {
			t.Errorf("after its end: %#v", u)
		}
	})
}

func TestCloseWaitsNoLongerThanItsGrace(t *testing.T) {
	inWorld(t, Options{Timeout: time.Hour}, func(w *world) {
		w.provider.takes = 30 * time.Minute
		var ended error
		w.provider.does = func(ctx context.Context, _ *tokensource.Token) {
			select {
			case <-ctx.Done():
				ended = ctx.Err()
			case <-time.After(time.Hour):
			}
		}
		w.attach()
		synctest.Wait()
		w.Close(4 * time.Second)
		if w.elapsed() != 4*time.Second {
			t.Errorf("Close returned after %v, want 4s", w.elapsed())
		}
		synctest.Wait()
		if !errors.Is(ended, context.Canceled) || w.provider.running != 0 {
			t.Errorf("the token request goes on after Close: %v", ended)
		}
	})
}

func TestCloseLetsEverybodyGoWhoWaits(t *testing.T) {
	for name, attached := range map[string]bool{"for an environment": false, "for a token": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, Options{Timeout: time.Hour}, func(w *world) {
				w.provider.takes = time.Hour
				if attached {
					w.attach()
				}
				var everybody sync.WaitGroup
				for range 20 {
					everybody.Go(func() {
						if _, err, _ := w.ask(); err == nil || err.Waited {
							t.Errorf("a caller got %#v", err)
						}
					})
				}
				synctest.Wait()
				w.Close(4 * time.Second)
				everybody.Wait()
				if w.elapsed() > 4*time.Second {
					t.Errorf("the last one left after %v", w.elapsed())
				}
			})
		})
	}
}

func TestAfterCloseNothingBeginsAnyMore(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"without an environment": func(*world) {},
		"with a token":           func(w *world) { w.start() },
		"in a backoff":           func(w *world) { w.provider.fails(down); w.start() },
		"with rejected credentials": func(w *world) {
			w.provider.fails(rejected(func() bool { return true }))
			w.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, Options{}, func(w *world) {
				prepare(w)
				before := w.provider.requests()
				w.Close(4 * time.Second)
				w.Close(4 * time.Second)
				if w.elapsed() != 0 {
					t.Errorf("with nothing under way Close took %v", w.elapsed())
				}
				w.attach()
				if token := w.Current(); token != nil {
					w.Report(token)
				}
				each(time.Minute, 2*time.Hour, func() { w.ask() })
				if u := w.refused(); u.Cause == nil {
					t.Errorf("%#v", u)
				}
				w.wantRequests(before, before)
			})
		})
	}
}

func TestATokenThatArrivesAfterCloseIsNotRenewed(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = 2 * time.Second
		w.attach()
		synctest.Wait()
		w.Close(4 * time.Second)
		synctest.Wait()
		if w.timer != nil {
			t.Error("a timer was set")
		}
		w.wantRequests(1, 1)
	})
}

func TestATimerThatFiresAsItIsStoppedFindsNothingToDo(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.start()
		for range 10 {
			w.tick() // not due
		}
		synctest.Wait()
		w.wantRequests(1, 1)
		time.Sleep(10 * time.Second)
		w.Report(w.served())
		w.tick()
		synctest.Wait()
		w.wantRequests(2, 2)
		w.Close(time.Second)
		w.tick()
		synctest.Wait()
		w.wantRequests(2, 2)
	})
}
