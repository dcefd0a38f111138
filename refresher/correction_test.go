package refresher

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// unreadable is the failure of a secret that cannot be read: nobody was asked.
func unreadable(changed func() bool) *tokensource.Error {
	return &tokensource.Error{Reason: "client_secret: the placeholder {file./x} is empty or cannot be read", Permanent: true, Changed: changed}
}

func TestACorrectedSecretIsUsedWhileTheTokenIsStillValid(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = time.Hour
		w.start()
		var corrected atomic.Bool
		w.provider.fails(unreadable(corrected.Load))
		w.untilRequest(2)
		time.Sleep(3 * time.Minute)
		w.served()
		w.wantRequests(2, 2)
		w.provider.fails(nil)
		corrected.Store(true)
		time.Sleep(lookEvery + time.Second) // and nobody asks
		synctest.Wait()
		w.wantRequests(3, 3)
		if left := w.served().Lifetime; left != time.Hour {
			t.Errorf("%v", left)
		}
	})
}

func TestNobodyLooksForEverOnceTheTokenHasEnded(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = time.Hour
		w.start()
		var looks atomic.Int64
		w.provider.fails(unreadable(func() bool { looks.Add(1); return false }))
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		before := looks.Load()
		if before == 0 {
			t.Error("nobody has looked")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if after := looks.Load(); after != before {
			t.Errorf("%d looks while nobody asks", after-before)
		}
	})
}

func TestARefusalDoesNotTakeTheTokenFromAllWhereASecretCannotBeRead(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = time.Hour
		w.start()
		w.provider.fails(unreadable(nil))
		w.Report(w.served())
		synctest.Wait()
		w.served() // not dropped by the failure
		w.Report(w.served())
		w.served() // nor by one more refusal
		w.wantRequests(2, 2)
	})
}

func TestACorrectedSecretIsLookedForBeforeARefusedTokenIsDropped(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = time.Hour
		w.start()
		w.provider.fails(rejected(func() bool { return true }))
		w.untilRequest(2)
		w.provider.fails(nil)
		time.Sleep(lookEvery)
		token := w.served()
		w.Report(token)
		synctest.Wait()
		if w.served() == token {
			t.Error("the refused token was not renewed")
		}
	})
}

// A login that was refused in other words than OAuth's is left alone for ten
// minutes, but for a changed secret.
func TestALongPauseEndsWhereASecretChanges(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		var corrected atomic.Bool
		w.provider.fails(&tokensource.Error{StatusCode: 403, RetryAfter: 10 * time.Minute, Changed: corrected.Load})
		w.start()
		if u := w.refused(); u.RetryAfter < 9*time.Minute {
			t.Errorf("asked to come back after %v", u.RetryAfter)
		}
		time.Sleep(time.Minute)
		w.refused()
		w.wantRequests(1, 1)
		corrected.Store(true)
		w.provider.fails(nil)
		time.Sleep(lookEvery)
		if token, err, _ := w.ask(); token == nil {
			t.Errorf("no token: %v", err)
		}
		w.wantRequests(2, 2)
	})
}

func TestARefreshTokenThatWasRefusedIsNotGivenAgain(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		var given []string
		w.provider.does = func(_ context.Context, previous *tokensource.Token) {
			if previous != nil {
				given = append(given, previous.RefreshToken)
			}
		}
		w.provider.lifetime = time.Minute
		w.start()
		w.provider.fails(&tokensource.Error{StatusCode: 503, RefreshTokenRefused: true})
		w.untilRequest(4)
		w.provider.fails(nil)
		w.untilRequest(6)
		want := []string{"canary-refresh-main-1", "", "", "", "canary-refresh-main-5"}
		for i := range want {
			if i >= len(given) || given[i] != want[i] {
				t.Fatalf("given %q, want %q", given, want)
			}
		}
	})
}

// A provider may issue the same token until it ends.
func TestATokenThatIsIssuedAgainIsRenewedWhenItEnds(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		source := sourceFunc(func(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
			token, err := w.provider.Obtain(ctx, previous)
			if previous != nil && alive(previous, w.now()) {
				same := *previous
				return &same, err
			}
			return token, err
		})
		w.provider.lifetime = 10 * time.Second
		w.Attach(&Environment{Source: source, Log: w.logger})
		synctest.Wait()
		expired := 0
		each(50*time.Millisecond, 100*time.Second, func() {
			if w.Current() == nil {
				expired++
			}
		})
		if expired > 12 {
			t.Errorf("there was no token at %d of 2000 moments", expired)
		}
		w.wantRequests(19, 21)
	})
}

// A provider may always issue the same token, also one that has ended.
func TestTokensThatHaveEndedAreNoStormAtTheProvider(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		issued := w.now()
		source := sourceFunc(func(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
			token, err := w.provider.Obtain(ctx, previous)
			if err == nil {
				token.Issued, token.Lifetime = issued, 2*time.Second
			}
			return token, err
		})
		w.Attach(&Environment{Source: source, Log: w.logger})
		time.Sleep(time.Minute)
		for range 50 {
			w.refused()
		}
		w.wantRequests(4, 18) // the pauses grow from a fifth of a second
	})
}

func TestTheSameTokenOnceMoreCuresNoRefusal(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		token := &tokensource.Token{AccessToken: "static", Issued: w.now()} // its lifetime is not known
		source := sourceFunc(func(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
			_, err := w.provider.Obtain(ctx, previous)
			same := *token
			return &same, err
		})
		w.Attach(&Environment{Source: source, Log: w.logger})
		synctest.Wait()
		each(time.Second, 2*time.Hour, func() { w.Report(w.served()) })
		w.wantRequests(15, 22)
	})
}

func TestSecretsAreLookedAtEachNineSecondsWhileTheTokenIsValid(t *testing.T) {
	inWorld(t, Options{}, func(w *world) {
		w.provider.lifetime = time.Hour
		w.start()
		looks := 0
		w.provider.fails(unreadable(func() bool { looks++; time.Sleep(20 * time.Millisecond); return false }))
		w.untilRequest(2)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if looks < 18 || looks > 20 {
			t.Errorf("%d looks in three minutes", looks)
		}
	})
}
