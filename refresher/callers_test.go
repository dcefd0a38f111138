package refresher

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

func TestTheFirstTokenIsObtainedBeforeAnybodyAsks(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = time.Second
		w.attach()
		if w.elapsed() != 0 {
			t.Errorf("Attach waited %v for the provider", w.elapsed())
		}
		if w.Current() != nil {
			t.Error("there is a token before the provider has answered")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		token := w.served()
		if token.AccessToken != "canary-access-main-1" || w.Current() != token {
			t.Errorf("the token is %v, the current one %v", token, w.Current())
		}
		w.wantRequests(1, 1)
	})
}

func TestAnyNumberOfCallersCauseOneTokenRequest(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = 300 * time.Millisecond
		var everybody sync.WaitGroup
		var mu sync.Mutex
		got := make(map[*tokensource.Token]int)
		for range 200 {
			everybody.Go(func() {
				token, err, waited := w.ask()
				if err != nil || waited > 300*time.Millisecond {
					t.Errorf("after %v: %v", waited, err)
				}
				mu.Lock()
				got[token]++
				mu.Unlock()
			})
		}
		synctest.Wait()
		w.attach()
		everybody.Wait()
		if len(got) != 1 {
			t.Errorf("the callers got %d different tokens", len(got))
		}
		w.wantRequests(1, 1)
	})
}

func TestTheOthersGetTheTokenWhenTheFirstCallerLeaves(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = time.Second
		w.provider.lifetime = 0
		w.provider.fails(down)
		w.start() // so that a caller begins the next token request, not Attach
		w.provider.fails(nil)
		retry := w.refused().RetryAfter
		w.mu.Lock()
		w.stopTimer()
		w.mu.Unlock()
		time.Sleep(retry)

		first, leave := context.WithCancel(context.Background())
		var everybody sync.WaitGroup
		everybody.Go(func() {
			_, err := w.Token(first)
			var u *Unavailable
			if !errors.As(err, &u) || !u.Waited {
				t.Errorf("the caller who left got %v", err)
			}
		})
		synctest.Wait()
		w.wantRequests(2, 2)
		for range 10 {
			everybody.Go(func() {
				if _, err, _ := w.ask(); err != nil {
					t.Errorf("a caller who stayed got %v", err)
				}
			})
		}
		synctest.Wait()
		leave()
		everybody.Wait()
		w.wantRequests(2, 2)
	})
}

func TestNoValueOfACallersContextReachesTheTokenRequest(t *testing.T) {
	type key struct{}
	inWorld(t, Options{}, func(w *world) {
		w.provider.fails(down)
		w.provider.does = func(ctx context.Context, _ *tokensource.Token) {
			if ctx.Value(key{}) != nil {
				t.Error("the token request runs on the context of a caller")
			}
		}
		w.start()
		w.mu.Lock()
		w.stopTimer()
		w.mu.Unlock()
		time.Sleep(time.Minute)
		_, err := w.Token(context.WithValue(context.Background(), key{}, "a caller's"))
		if err == nil {
			t.Error("there is a token")
		}
		w.wantRequests(2, 2)
	})
}

func TestAHangingProviderHoldsEachCallerOnlyUntilItsOwnDeadline(t *testing.T) {
	inWorld(t, Options{Timeout: time.Hour}, func(w *world) {
		w.provider.takes = 2 * time.Hour
		w.attach()
		var everybody sync.WaitGroup
		for i := range 100 {
			everybody.Go(func() {
				patience := time.Duration(i) * 100 * time.Millisecond
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				before := time.Now()
				_, err := w.Token(ctx)
				var u *Unavailable
				if !errors.As(err, &u) || !u.Waited || u.Permanent {
					t.Errorf("a caller got %#v", err)
				}
				if waited := time.Since(before); waited != patience {
					t.Errorf("a caller with %v waited %v", patience, waited)
				}
			})
		}
		everybody.Wait()
		w.wantRequests(1, 1)
	})
}

func TestTimeoutBoundsATokenRequest(t *testing.T) {
	for _, c := range []struct{ option, want time.Duration }{{0, DefaultTimeout}, {2 * time.Second, 2 * time.Second}} {
		inWorld(t, Options{Timeout: c.option}, func(w *world) {
			w.provider.takes = time.Hour
			w.attach()
			_, err, waited := w.ask()
			if waited != c.want {
				t.Errorf("the token request was given up after %v, want %v", waited, c.want)
			}
			if err == nil || err.Cause == nil || err.Waited {
				t.Errorf("the caller got %#v", err)
			}
		})
	}
}

func TestRequestsBeforeTheFirstEnvironmentWaitForIt(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.takes = time.Second
		var caller sync.WaitGroup
		caller.Go(func() {
			_, err, waited := w.ask()
			if err != nil || waited != 6*time.Second {
				t.Errorf("after %v: %v", waited, err)
			}
		})
		time.Sleep(5 * time.Second)
		w.wantRequests(0, 0)
		w.attach()
		caller.Wait()
		w.wantRequests(1, 1)

	})
}

func TestARequestWithoutAnyEnvironmentWaitsOnlyUntilItsDeadline(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		_, err := w.Token(ctx)
		var u *Unavailable
		if !errors.As(err, &u) || !u.Waited || w.elapsed() != 15*time.Second {
			t.Errorf("after %v: %v", w.elapsed(), err)
		}
	})
}

func TestAnUnavailableSaysWhyInOneLine(t *testing.T) {
	for _, c := range []struct {
		u    Unavailable
		want string
	}{
		{Unavailable{}, "no token"},
		{Unavailable{Waited: true}, "no token: the provider did not answer in time"},
		{Unavailable{Cause: down}, "no token: HTTP status 503"},
		{Unavailable{Cause: rejected(nil), Permanent: true}, "no token: HTTP status 401, invalid_client"},
	} {
		if got := c.u.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
		if c.u.Cause == nil && errors.Unwrap(&c.u) != nil {
			t.Errorf("%q unwraps to an error that is nil and not nil", c.want)
		}
		var e *tokensource.Error
		if errors.As(&c.u, &e) != (c.u.Cause != nil) {
			t.Errorf("%q does not unwrap to its cause", c.want)
		}
	}
}
