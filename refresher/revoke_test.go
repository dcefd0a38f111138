package refresher

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/caddytoken/inject-token/tokensource"
)

// givenBack has the newest token revoked, which must succeed, and returns which one
// the provider was given; "": none.
func (w *world) givenBack(r *Refresher) (access string) {
	w.t.Helper()
	if err := r.Revoke(func(_ context.Context, t *tokensource.Token) error {
		access = t.AccessToken
		return nil
	}); err != nil {
		w.t.Errorf("after %v: not revoked: %v", w.elapsed(), err)
	}
	synctest.Wait()
	return access
}

func TestWhatIsRevokedIsForgottenHereAndInTheStorage(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("yes")
		yes, _, _ := m.see()
		if got := w.givenBack(w.Refresher); got != "canary-granted-yes" {
			t.Errorf("given back was %q", got)
		}
		if w.Current() != nil {
			t.Error("it is still served")
		}
		w.needsPerson()
		w.wantStored(m, "")
		if record, _, _ := m.see(); record.Grant <= yes.Grant {
			t.Errorf("it is %+v, the one before %+v: a renewal of that would come out equal", record.version(), yes.version())
		}
		each(time.Minute, 24*time.Hour, w.needsPerson)
		w.wantRequests(0, 0)
		w.grant("again")
		w.wantServed("canary-granted-again")
		w.wantStored(m, "canary-granted-again")
	})
}

func TestTheLogSaysThatASourceWasRevoked(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		w.grant("yes")
		w.log.TakeAll()
		w.givenBack(w.Refresher)
		said := w.log.FilterMessage("revoked").Len()
		needs := w.log.FilterMessage("a person must authorize this source")
		if said != 1 || needs.Len() != 1 || needs.All()[0].Level != zapcore.WarnLevel || w.log.Len() != 2 {
			t.Errorf("%v", w.log.All())
		}
	})
}

func TestARevocationThatFailsForgetsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		revoke func(context.Context, *tokensource.Token) error
		want   string
	}{
		"as the provider says": {func(context.Context, *tokensource.Token) error { return down }, "HTTP status 503"},
		"with another error":   {func(context.Context, *tokensource.Token) error { return errors.New("canary") }, "the token request failed inside"},
		"in a panic":           {func(context.Context, *tokensource.Token) error { panic("canary") }, "panic in a token request; the log has its stack"},
	} {
		t.Run(name, func(t *testing.T) {
			awaiting(t, func(w *world, m *memory) {
				w.grant("yes")
				if e, ok := w.Revoke(c.revoke).(*tokensource.Error); !ok || e.Error() != c.want {
					t.Errorf("%v", e)
				}
				w.wantServed("canary-granted-yes")
				w.wantStored(m, "canary-granted-yes")
				w.wantState(Fresh)
				time.Sleep(50 * time.Minute) // it is renewed all the same
				w.wantRequests(1, 1)
			})
		})
	}
}

func TestWithoutATokenThereIsNothingToGiveBack(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		if got := w.givenBack(w.Refresher); got != "" {
			t.Errorf("given back was %q", got)
		}
		w.needsPerson()
	})
}

func TestTheNewestTokenIsRevokedAlsoWhereAnotherNodeHasIt(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("yes")
		other := w.node(m)
		other.Report(other.Current())
		synctest.Wait()
		w.wantRequests(1, 1)
		w.wantServed("canary-granted-yes") // this one does not know yet
		if got := w.givenBack(w.Refresher); got != "canary-access-main-1" {
			t.Errorf("given back was %q", got)
		}
		w.wantStored(m, "")
		w.needsPerson()
	})
}

func TestOtherNodesForgetWhatWasRevokedWhenTheyLook(t *testing.T) {
	for name, look := range map[string]func(r *Refresher){
		"at a refusal": func(r *Refresher) { r.Report(r.Current()) },
		"at a renewal": func(*Refresher) { time.Sleep(50 * time.Minute) },
		"by itself":    func(*Refresher) { time.Sleep(watchEvery) },
		"by command":   func(r *Refresher) { _ = r.Refresh(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			awaiting(t, func(w *world, m *memory) {
				w.grant("yes")
				other := w.node(m)
				w.givenBack(w.Refresher)
				look(other)
				synctest.Wait()
				if got := other.Current(); got != nil {
					t.Errorf("%s is served", got.AccessToken)
				}
				if s := other.Status(); s.State != NeedsAuthorization {
					t.Errorf("%+v", s)
				}
				w.wantRequests(0, 0)
				w.wantStored(m, "")
				time.Sleep(time.Second)
				w.grant("again")
				if token, _, err := askFor(other); err != nil || token.AccessToken != "canary-granted-again" {
					t.Errorf("%v, %v", token, err)
				}
			})
		})
	}
}

func TestARenewalUnderWayElsewhereNeverComesOutOnTopOfARevocation(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("old")
		other := w.node(m)
		w.provider.set(func(p *provider) { p.takes = 10 * time.Second })
		other.Report(other.Current())
		time.Sleep(time.Second)
		w.wantRequests(1, 1)
		w.givenBack(w.Refresher)
		time.Sleep(time.Minute)
		w.wantStored(m, "")
		if got := other.Current(); got != nil {
			t.Errorf("the other node serves %s", got.AccessToken)
		}
		w.needsPerson()
		w.wantRequests(1, 1)
	})
}

func TestARestartAfterARevocationNeedsAPerson(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("yes")
		w.givenBack(w.Refresher)
		w.Close(time.Minute)
		next := w.node(m)
		if token, _, err := askFor(next); err == nil {
			t.Errorf("%v", token)
		}
		if s := next.Status(); s.State != NeedsAuthorization {
			t.Errorf("%+v", s)
		}
		w.wantRequests(0, 0)
	})
}

func TestARevocationThatCannotBeStoredIsStoredLater(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("yes")
		m.set(func(m *memory) { m.failure = errors.New("no space left on device") })
		w.givenBack(w.Refresher)
		if w.Current() != nil {
			t.Error("it is still served")
		}
		if s := w.wantState(w.Status().State); !s.Unsaved || s.Token != nil {
			t.Errorf("%+v", s)
		}
		m.set(func(m *memory) { m.failure = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		w.wantStored(m, "")
		if token, _, err := askFor(w.Refresher); err == nil {
			t.Errorf("%v", token)
		}
		if s := w.wantState(NeedsAuthorization); s.Unsaved {
			t.Errorf("%+v", s)
		}
		w.wantRequests(0, 0)
	})
}

// Of a grant that needs nobody, the next token is one request away.
func TestAfterARevocationASourceThatNeedsNobodyObtainsAnother(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		w.withStore(m)
		first := w.served()
		if got := w.givenBack(w.Refresher); got != first.AccessToken {
			t.Errorf("given back was %q", got)
		}
		w.wantRequests(1, 1)
		var previous *tokensource.Token
		w.provider.does = func(_ context.Context, p *tokensource.Token) { previous = p }
		if got := w.served(); got.AccessToken == first.AccessToken {
			t.Error("the revoked one is served")
		}
		if previous != nil {
			t.Errorf("it was obtained with %+v", previous)
		}
		w.wantRequests(2, 2)
		w.wantStored(m, "canary-access-main-2")
	})
}

func TestTheEndWaitsForARevocation(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("yes")
		go func() {
			_ = w.Revoke(func(ctx context.Context, _ *tokensource.Token) error {
				time.Sleep(5 * time.Second)
				return ctx.Err()
			})
		}()
		synctest.Wait()
		began := time.Now()
		w.Close(time.Minute)
		if took := time.Since(began); took < 5*time.Second || took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		w.wantStored(m, "")
	})
}
