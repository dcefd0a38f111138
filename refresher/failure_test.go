package refresher

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/caddytoken/inject-token/tokensource"
)

func TestAValidTokenIsServedToItsLastSecondWhileTheProviderIsDown(t *testing.T) {
	for range 20 {
		inWorld(t, Options{}, func(w *world) {
			w.provider.lifetime = 10 * time.Second
			w.start()
			w.provider.fails(down)
			first := w.served()
			each(5*time.Millisecond, 10*time.Second, func() {
				if w.served() != first {
					t.Fatal("there is another token")
				}
			})
			w.wantRequests(3, 6)

			u := w.refused()
			if u.Cause != down || u.Permanent || u.Waited || u.RetryAfter <= 0 {
				t.Errorf("after its end: %#v", u)
			}
			w.provider.fails(nil)
			time.Sleep(5 * time.Second) // recovers without help
			if w.Current() == nil {
				t.Error("the provider is well again, and there is no token")
			}
		})
	}
}

func TestWithoutATokenRequestsGetAnErrorAtOnceAndTheProviderIsLeftAlone(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.fails(down)
		w.start()
		each(5*time.Millisecond, 5*time.Minute, func() {
			u := w.refused()
			if u.Cause != down || u.Permanent || u.Waited || u.RetryAfter <= 0 || u.RetryAfter > time.Minute {
				t.Fatalf("after %v: %#v", w.elapsed(), u)
			}
		})
		// After 1, 2, 4, 8, 16, 32, 40 s … at the earliest; 1.5, 3, 6, 12, 24, 48, 60 s … at the latest.
		w.wantRequests(9, 13)
		least := time.Second
		for i, gap := range w.provider.gaps() {
			if gap < least || gap > min(least*3/2, time.Minute) {
				t.Errorf("pause %d took %v, want from %v", i+1, gap, least)
			}
			least = min(2*least, 40*time.Second)
		}

		w.provider.fails(nil)
		time.Sleep(time.Minute)
		if w.Current() == nil {
			t.Error("the provider is well again, and there is no token although nobody asked")
		}
	})
}

func TestRetryAfterOfAnErrorIsWhenTheProviderIsAskedNext(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.fails(down)
		w.start()
		for range 5 {
			promised := w.refused().RetryAfter
			before := w.provider.requests()
			time.Sleep(promised - time.Nanosecond)
			w.wantRequests(before, before)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			w.wantRequests(before+1, before+1)
		}
	})
}

func TestAnEndedFailureIsForgotten(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 100 * time.Second
		w.provider.fails(down)
		w.start()
		time.Sleep(5 * time.Minute)
		w.provider.fails(nil)
		time.Sleep(time.Minute)
		token := w.served()
		w.provider.fails(down)
		before := w.provider.requests()
		time.Sleep(token.Expiry().Sub(w.clock.now()) - time.Second)
		gaps := w.provider.gaps()[before:]
		if len(gaps) == 0 || gaps[0] > 1500*time.Millisecond {
			t.Errorf("after a token the pauses do not begin anew: %v", gaps)
		}
	})
}

func TestWhatTheProviderWantsWins(t *testing.T) {
	for _, wanted := range []time.Duration{3 * time.Second, 2 * time.Minute} {
		inWorld(t, Options{}, func(w *world) {
			w.provider.fails(&tokensource.Error{StatusCode: 429, RetryAfter: wanted})
			w.start()
			each(10*time.Millisecond, 4*wanted, func() {
				if u := w.refused(); u.RetryAfter > wanted*11/10 {
					t.Fatalf("a caller is told to wait %v", u.RetryAfter)
				}
			})
			w.wantRequests(4, 4)
			for _, gap := range w.provider.gaps() {
				if gap < wanted || gap > wanted*11/10 {
					t.Errorf("it was asked again after %v, but wants %v", gap, wanted)
				}
			}
		})
	}
}

func TestWhatTheProviderWantsWinsAlsoWhileATokenIsValid(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 100 * time.Second
		w.start()
		w.provider.fails(&tokensource.Error{StatusCode: 429, RetryAfter: 90 * time.Second})
		each(time.Second, 100*time.Second, func() { w.served() })
		w.wantRequests(2, 2)
		w.provider.fails(nil)
		time.Sleep(80 * time.Second)
		w.served()
		w.wantRequests(3, 3)
	})
}

func TestRejectedCredentialsAreNotTriedAgain(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		looks := 0
		failure := rejected(func() bool { looks++; return false })
		w.provider.fails(failure)
		w.start()
		each(5*time.Millisecond, 8*time.Second, func() {
			u := w.refused()
			if u.Cause != failure || !u.Permanent || u.Waited || u.RetryAfter != 0 {
				t.Fatalf("after %v: %#v", w.elapsed(), u)
			}
		})
		time.Sleep(month)
		if looks != 0 {
			t.Errorf("the secrets were looked at %d times, though nobody asked in time", looks)
		}
		each(5*time.Millisecond, time.Minute, func() { w.refused() })
		if looks < 6 || looks > 7 {
			t.Errorf("the secrets were looked at %d times in a minute", looks)
		}
		w.wantRequests(1, 1)
	})
}

func TestRejectedCredentialsThatCannotChangeAreNeverLookedAt(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.fails(rejected(nil))
		w.start()
		each(time.Second, time.Hour, func() { w.refused() })
		w.wantRequests(1, 1)
	})
}

func TestACorrectedSecretServesRequestsWithinTenSeconds(t *testing.T) {
	for corrected := range 20 {
		inWorld(t, Options{}, func(w *world) {
			changed := false
			w.provider.fails(rejected(func() bool { return changed }))
			w.provider.takes = 50 * time.Millisecond
			w.start()
			each(20*time.Millisecond, time.Duration(corrected)*time.Second, func() { w.refused() })

			w.provider.fails(nil)
			changed = true
			at := time.Now()
			var token *tokensource.Token
			var err *Unavailable
			for token == nil && time.Since(at) < time.Minute {
				if token, err, _ = w.ask(); err != nil {
					time.Sleep(20 * time.Millisecond)
				}
			}
			if healed := time.Since(at); healed > 10*time.Second {
				t.Errorf("corrected after %d s, it served after %v", corrected, healed)
			}
			w.wantRequests(2, 2)
		})
	}
}

func TestManyCallersCauseOneLookAndOneTokenRequest(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		var mu sync.Mutex
		looks := 0
		w.provider.takes = 100 * time.Millisecond
		w.provider.fails(rejected(func() bool {
			time.Sleep(200 * time.Millisecond) // a slow disk
			mu.Lock()
			defer mu.Unlock()
			looks++
			return true
		}))
		w.start()
		w.provider.fails(nil)
		time.Sleep(time.Minute)
		var everybody sync.WaitGroup
		for range 200 {
			everybody.Go(func() {
				if _, err, waited := w.ask(); err != nil || waited != 300*time.Millisecond {
					t.Errorf("after %v: %v", waited, err)
				}
			})
		}
		everybody.Wait()
		if looks != 1 {
			t.Errorf("the secrets were looked at %d times", looks)
		}
		w.wantRequests(2, 2)
	})
}

func TestASecretThatWasChangedAndIsStillWrongCostsOneTokenRequest(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		changed := false
		w.provider.fails(rejected(func() bool { was := changed; changed = false; return was }))
		w.start()
		each(100*time.Millisecond, time.Minute, func() { w.refused() })
		changed = true
		each(100*time.Millisecond, time.Minute, func() { w.ask() })
		w.wantRequests(2, 2)
	})
}

func TestASlowLookIsNotRepeatedForTheSameCaller(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		looks := 0
		w.provider.fails(rejected(func() bool {
			time.Sleep(15 * time.Second) // a network file system
			looks++
			return false
		}))
		w.start()
		time.Sleep(time.Minute)
		_, err, waited := w.ask()
		if err == nil || !err.Permanent || waited != 15*time.Second || looks != 1 {
			t.Errorf("after %v and %d looks: %#v", waited, looks, err)
		}
	})
}

func TestALookThatHangsOrPanicsHarmsNobodyElse(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		hang := make(chan struct{})
		w.provider.fails(rejected(func() bool {
			<-hang
			panic("canary-panic")
		}))
		w.start()
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		_, err := w.Token(ctx)
		var u *Unavailable
		if !errors.As(err, &u) || !u.Waited {
			t.Errorf("while a look hangs a caller gets %v", err)
		}
		if w.Current() != nil { // and this does not wait
			t.Error("there is a token")
		}
		close(hang)
		synctest.Wait()
		if u := w.refused(); !u.Permanent {
			t.Errorf("after a look that panicked: %#v", u)
		}
	})
}

func TestAValidTokenIsServedToItsEndWhenTheCredentialsAreRejected(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = 100 * time.Second
		w.start()
		failure := rejected(func() bool { return false })
		w.provider.fails(failure)
		first := w.served()
		each(100*time.Millisecond, 100*time.Second, func() {
			if w.served() != first {
				t.Fatal("there is another token")
			}
		})
		w.wantRequests(2, 2)
		each(100*time.Millisecond, time.Minute, func() {
			if u := w.refused(); u.Cause != failure || !u.Permanent {
				t.Fatalf("after its end: %#v", u)
			}
		})
		w.wantRequests(2, 2)
	})
}

func TestAPanicInATokenRequestIsAFailureAndNotPrinted(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.does = func(context.Context, *tokensource.Token) { panic("canary-panic") }
		w.start()
		u := w.refused()
		if u.Permanent || u.RetryAfter <= 0 || strings.Contains(u.Error(), "canary") {
			t.Errorf("%#v: %v", u, u)
		}
		stacks := w.log.FilterMessage("panic in a token request").All()
		if len(stacks) != 1 || stacks[0].Level != zapcore.ErrorLevel {
			t.Fatalf("the log says %v", w.log.All())
		}
		if stack, _ := stacks[0].ContextMap()["stack"].(string); !strings.Contains(stack, "failure_test.go") {
			t.Errorf("its stack does not show where: %q", stack)
		}
		w.provider.set(func(p *provider) { p.does = nil })
		time.Sleep(2 * time.Second)
		w.served()
	})
}

func TestAnErrorOfAnotherTypeIsAFailureWithoutItsText(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.fails(errors.New("canary-text"))
		w.start()
		u := w.refused()
		if u.Permanent || u.RetryAfter <= 0 || u.Cause == nil || strings.Contains(u.Error(), "canary") {
			t.Errorf("%#v: %v", u, u)
		}
		w.provider.fails(nil)
		time.Sleep(2 * time.Second)
		w.served()
	})
}

// sourceFunc is a Source that is one function.
type sourceFunc func(context.Context, *tokensource.Token) (*tokensource.Token, error)

func (f sourceFunc) Obtain(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
	return f(ctx, previous)
}

func TestASourceWithoutTokenAndWithoutErrorIsAFailure(t *testing.T) {
	var none *tokensource.Error
	for name, err := range map[string]error{"no error": nil, "an error that is nil inside": none} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, Options{}, func(w *world) {
				w.Attach(&Environment{
					Source: sourceFunc(func(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
						if w.provider.requests() > 0 {
							return w.provider.Obtain(ctx, previous)
						}
						_, _ = w.provider.Obtain(ctx, previous)
						return nil, err
					}),
					Log: w.logger,
				})
				synctest.Wait()
				if u := w.refused(); u.Permanent || u.RetryAfter <= 0 || u.Cause == nil {
					t.Errorf("%#v", u)
				}
				time.Sleep(2 * time.Second)
				w.served()
			})
		})
	}
}
