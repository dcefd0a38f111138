package refresher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddytoken/inject-token/tokensource"
)

// forPeople are the options of a source that a person authorizes.
var forPeople = Options{OneUse: true, Person: true}

// consented is a source that a person has to begin: it goes on with a refresh
// token, and asks nobody without one.
type consented struct{ *provider }

func (c consented) Obtain(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
	if previous == nil || previous.RefreshToken == "" {
		return nil, &tokensource.Error{Code: "authorization_required", Reason: "a person must authorize this source", Permanent: true, AuthorizationRequired: true}
	}
	return c.provider.Obtain(ctx, previous)
}

// withdrawn is what a provider says to the refresh token of a grant that it has
// ended.
func withdrawn() *tokensource.Error {
	return &tokensource.Error{Code: "invalid_grant", StatusCode: 400, Permanent: true, AuthorizationRequired: true}
}

// awaiting runs a test in a world whose source waits for a person.
func awaiting(t *testing.T, test func(w *world, m *memory)) {
	t.Helper()
	inWorldWithStore(t, forPeople, func(w *world, m *memory) {
		w.forPeople(m)
		test(w, m)
	})
}

// forPeople attaches the refresher to a source that waits for a person.
func (w *world) forPeople(store Store) {
	w.Attach(&Environment{Source: consented{w.provider}, Log: w.logger, Store: store, Command: "caddy token-source authorize main"})
	synctest.Wait()
}

// node is another process with the same source and storage.
func (w *world) node(store Store) *Refresher {
	r := New(w.as)
	r.now = w.clock.now
	r.Attach(&Environment{Source: consented{w.provider}, Log: zap.NewNop(), Store: store})
	w.others = append(w.others, r)
	synctest.Wait()
	return r
}

// granting is an exchange by which a person's yes becomes a token.
func (w *world) granting(name string) func(context.Context) (*tokensource.Token, error) {
	return w.grantingAt(name, w.now)
}

func (w *world) grantingAt(name string, now func() time.Time) func(context.Context) (*tokensource.Token, error) {
	return func(context.Context) (*tokensource.Token, error) {
		return &tokensource.Token{
			AccessToken: "canary-granted-" + name, RefreshToken: "canary-refresh-" + name, Issued: now(), Lifetime: w.provider.lifetime,
		}, nil
	}
}

// grant has a person authorize the source, which must succeed.
func (w *world) grant(name string) (stored bool) {
	w.t.Helper()
	token, stored, err := w.Authorize(w.granting(name))
	if err != nil || token == nil {
		w.t.Fatalf("after %v: not authorized: %v", w.elapsed(), err)
	}
	return stored
}

// wantServed wants this token at once, and wantStored the storage to have it.
func (w *world) wantServed(access string) {
	w.t.Helper()
	if got := w.served().AccessToken; got != access {
		w.t.Errorf("after %v %q is served, want %q", w.elapsed(), got, access)
	}
}

func (w *world) wantStored(m *memory, access string) {
	w.t.Helper()
	switch record, _, _ := m.see(); {
	case record == nil:
		w.t.Errorf("after %v nothing is stored, want %q", w.elapsed(), access)
	case access == "" && record.Token == nil:
	case record.Token == nil || record.Token.AccessToken != access:
		w.t.Errorf("after %v stored is %d %+v, want %q", w.elapsed(), record.Counter, record.Token, access)
	}
}

// needsPerson wants an error at once that says that a person is needed, or one
// after a look at the storage.
func (w *world) needsPerson() {
	w.t.Helper()
	token, err, waited := w.ask()
	if token != nil || waited > 2*grantEvery {
		w.t.Fatalf("after %v: %v, after waiting %v", w.elapsed(), token, waited)
	}
	if !err.Permanent || err.Cause == nil || !err.Cause.AuthorizationRequired {
		w.t.Errorf("after %v: %#v, %v", w.elapsed(), err, err.Cause)
	}
	if state := w.Status().State; state != NeedsAuthorization {
		w.t.Errorf("after %v: the state is %s", w.elapsed(), state)
	}
}

// wantSaid wants the newest line of the log to be this one, with these fields and
// others.
func (w *world) wantSaid(level zapcore.Level, message string, fields map[string]any) {
	w.t.Helper()
	synctest.Wait()
	all := w.log.All()
	if len(all) == 0 {
		w.t.Fatal("the log is empty")
	}
	last := all[len(all)-1]
	if last.Level != level || last.Message != message {
		w.t.Errorf("the log says %v %q, want %v %q", last.Level, last.Message, level, message)
	}
	for name, want := range fields {
		if got := last.ContextMap()[name]; got != want {
			w.t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestUntilAPersonAuthorizesTheSourceNobodyIsAskedAndTheLogSaysSoOnce(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		w.needsPerson()
		w.wantSaid(zapcore.WarnLevel, "a person must authorize this source", map[string]any{
			"command": "caddy token-source authorize main", "code": "authorization_required",
		})
		each(time.Minute, 24*time.Hour, w.needsPerson)
		w.wantRequests(0, 0)
		if n := w.log.Len(); n != 1 {
			t.Errorf("in a day the log has %d lines: %v", n, w.log.All())
		}
	})
}

func TestWhatAPersonHasAuthorizedIsServedStoredAndRenewed(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.needsPerson()
		spent := w.recordSpent()
		if !w.grant("yes") {
			t.Error("it is not stored")
		}
		w.wantServed("canary-granted-yes")
		w.wantStored(m, "canary-granted-yes")
		w.wantSaid(zapcore.InfoLevel, "authorized", map[string]any{"counter": m.counter()})
		if s := w.Status(); s.State != Fresh || s.Failure != nil || s.Counter != m.counter() || s.Unsaved {
			t.Errorf("%+v", s)
		}
		time.Sleep(42 * time.Minute)
		w.wantRequests(0, 0)
		time.Sleep(7 * time.Minute)
		w.wantRequests(1, 1)
		if got := spent(); got[0] != "canary-refresh-yes" {
			t.Errorf("renewed with %q", got)
		}
		w.wantStored(m, "canary-access-main-1")
		w.wantServed("canary-access-main-1")
		time.Sleep(24 * time.Hour)
		wantSpentOnce(t, spent())
	})
}

func TestAGrantTakesThePlaceOfAValidToken(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("first")
		first, _, _ := m.see()
		before := first.version()
		w.grant("second")
		w.wantServed("canary-granted-second")
		w.wantStored(m, "canary-granted-second")
		if record, _, _ := m.see(); record.version().compare(before) <= 0 || record.Grant <= before.grant {
			t.Errorf("it is %+v, the one before %+v: a renewal of that would come out equal", record.version(), before)
		}
	})
}

func TestWithoutAStorageAGrantIsServedAndRenewed(t *testing.T) {
	inWorldWithStore(t, forPeople, func(w *world, _ *memory) {
		w.forPeople(nil)
		if u := w.refused(); u.Cause == nil || !u.Cause.AuthorizationRequired {
			t.Errorf("%v", u)
		}
		if !w.grant("yes") {
			t.Error("where nothing is to be stored it counts as not stored")
		}
		w.wantServed("canary-granted-yes")
		if s := w.Status(); s.Unsaved || s.State != Fresh {
			t.Errorf("%+v", s)
		}
		time.Sleep(10 * time.Hour)
		w.wantRequests(10, 20)
		w.served()
	})
}

// A renewal of the old token on another node ends after the grant.
func TestARenewalUnderWayElsewhereNeverComesOutOnTopOfAGrant(t *testing.T) {
	for _, takes := range []time.Duration{time.Second, 10 * time.Second, 19 * time.Second} {
		awaiting(t, func(w *world, m *memory) {
			w.grant("old")
			other := w.node(m)
			w.provider.set(func(p *provider) { p.takes = takes })
			if !other.Report(other.Current()) {
				t.Fatal("it does not renew")
			}
			time.Sleep(takes / 2)
			w.wantRequests(1, 1)
			if !w.grant("new") {
				t.Error("it is not stored")
			}
			time.Sleep(time.Minute)
			w.wantStored(m, "canary-granted-new")
			w.wantServed("canary-granted-new")
			if got := other.Current(); got == nil || got.AccessToken != "canary-granted-new" {
				t.Errorf("takes %v: the other node serves %v", takes, got)
			}
		})
	}
}

// A renewal of the old token in this process ends, or fails, just before.
func TestAGrantWaitsForTheRenewalUnderWayAndTakesItsPlace(t *testing.T) {
	for name, outcome := range map[string]error{"which succeeds": nil, "which fails": down, "which is refused": withdrawn()} {
		t.Run(name, func(t *testing.T) {
			awaiting(t, func(w *world, m *memory) {
				w.grant("old")
				w.provider.set(func(p *provider) { p.takes, p.err = 5*time.Second, outcome })
				w.Report(w.Current())
				time.Sleep(time.Second)
				w.grant("new")
				w.wantServed("canary-granted-new")
				synctest.Wait()
				w.wantServed("canary-granted-new")
				w.wantStored(m, "canary-granted-new")
				if s := w.Status(); s.State != Fresh || s.Failure != nil {
					t.Errorf("%+v", s)
				}
				w.wantRequests(1, 1)
			})
		})
	}
}

func TestAGrantLandsWhileARenewalHangs(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("old")
		w.provider.set(func(p *provider) { p.takes = time.Hour })
		w.Report(w.Current())
		time.Sleep(time.Second)
		began := time.Now()
		w.grant("new")
		if took := time.Since(began); took > DefaultTimeout+storePatience {
			t.Errorf("it took %v", took)
		}
		synctest.Wait()
		w.wantServed("canary-granted-new")
		w.wantStored(m, "canary-granted-new")
	})
}

func TestAGrantTakesThePlaceOfWhatAnotherHistoryHasStored(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("here")
		there := w.stored(500, 0)
		there.Origin = "another history"
		m.set(func(m *memory) { m.record = there })
		if !w.grant("now") {
			t.Error("it is not stored")
		}
		w.wantStored(m, "canary-granted-now")
		if record, _, _ := m.see(); record.version().compare(there.version()) <= 0 {
			t.Errorf("it is %+v", record.version())
		}
		w.wantServed("canary-granted-now")
	})
}

func TestAGrantTakesThePlaceOfWhatCannotBeRead(t *testing.T) {
	inWorldWithStore(t, forPeople, func(w *world, m *memory) {
		m.reads = &Unreadable{Reason: "the entry is damaged"}
		w.forPeople(m)
		u := w.refused()
		if want := "the entry is damaged; to begin anew, authorize the source again"; u.Cause.Reason != want {
			t.Errorf("%q, want %q", u.Cause.Reason, want)
		}
		w.needsPerson()
		if _, aside, saves := m.see(); aside || saves != 0 {
			t.Errorf("put aside: %v, stored %d times", aside, saves)
		}
		if !w.grant("yes") {
			t.Error("it is not stored")
		}
		if _, aside, _ := m.see(); !aside {
			t.Error("what could not be read is gone, and not put aside")
		}
		w.wantStored(m, "canary-granted-yes")
		w.wantServed("canary-granted-yes")
	})
}

func TestAGrantLeavesAnEntryOfALaterVersionAloneAndIsServed(t *testing.T) {
	inWorldWithStore(t, forPeople, func(w *world, m *memory) {
		m.reads = &Unreadable{Reason: "later", Newer: true}
		w.forPeople(m)
		if w.grant("yes") {
			t.Error("it counts as stored")
		}
		w.wantServed("canary-granted-yes")
		time.Sleep(10 * time.Hour)
		if _, aside, saves := m.see(); aside || saves != 0 {
			t.Errorf("put aside: %v, stored %d times", aside, saves)
		}
		if s := w.Status(); !s.Unsaved {
			t.Errorf("%+v", s)
		}
	})
}

func TestAGrantThatCannotBeStoredIsServedAndOutranksWhatIsThereLater(t *testing.T) {
	for name, fault := range map[string]func(m *memory){
		"fails": func(m *memory) { m.failure = errors.New("no space left on device") },
		"hangs": func(m *memory) { m.hangs = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			awaiting(t, func(w *world, m *memory) {
				m.set(fault)
				began := time.Now()
				if w.grant("yes") {
					t.Error("it counts as stored")
				}
				if took := time.Since(began); took > 5*storePatience {
					t.Errorf("it took %v", took)
				}
				w.wantServed("canary-granted-yes")
				if s := w.Status(); !s.Unsaved || s.State != Fresh {
					t.Errorf("%+v", s)
				}
				there := w.stored(77, 0)
				there.Origin = "another history"
				m.set(func(m *memory) { m.record, m.failure, m.hangs = there, nil, 0 })
				time.Sleep(2 * time.Hour) // a call that hangs ends, and then
				synctest.Wait()
				if s := w.Status(); s.Unsaved {
					t.Errorf("%+v", s)
				}
				record, _, _ := m.see()
				if record.Counter <= 78 || record.Token.AccessToken == "canary-stored" {
					t.Errorf("stored is %d, %s", record.Counter, record.Token.AccessToken)
				}
				if got := w.served().AccessToken; got != record.Token.AccessToken {
					t.Errorf("%s is served, and %s stored", got, record.Token.AccessToken)
				}
			})
		})
	}
}

func TestAnExchangeThatFailsChangesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		exchange func(context.Context) (*tokensource.Token, error)
		want     string
	}{
		"as the provider says":    {func(context.Context) (*tokensource.Token, error) { return nil, down }, "HTTP status 503"},
		"with another error":      {func(context.Context) (*tokensource.Token, error) { return nil, errors.New("canary") }, "the token request failed inside"},
		"in a panic":              {func(context.Context) (*tokensource.Token, error) { panic("canary") }, "panic in a token request; the log has its stack"},
		"when its time has ended": {func(ctx context.Context) (*tokensource.Token, error) { <-ctx.Done(); return nil, down }, "HTTP status 503"},
	} {
		t.Run(name, func(t *testing.T) {
			awaiting(t, func(w *world, m *memory) {
				w.grant("old")
				_, _, saves := m.see()
				token, _, err := w.Authorize(c.exchange)
				if e, ok := err.(*tokensource.Error); !ok || token != nil || e.Error() != c.want {
					t.Errorf("%v, %v", token, err)
				}
				w.wantServed("canary-granted-old")
				if s := w.Status(); s.State != Fresh {
					t.Errorf("%+v", s)
				}
				if _, _, after := m.see(); after != saves {
					t.Error("something was stored")
				}
				w.grant("new") // the turn was given back
				w.wantServed("canary-granted-new")
			})
		})
	}
}

func TestTheEndWaitsForAnExchangeAndStoresWhatComesOfIt(t *testing.T) {
	for name, end := range map[string]func(w *world){
		"Close":  func(w *world) { w.Close(time.Minute) },
		"Finish": func(w *world) { w.Finish(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			awaiting(t, func(w *world, m *memory) {
				done := make(chan error, 1)
				go func() {
					_, _, err := w.Authorize(func(ctx context.Context) (*tokensource.Token, error) {
						time.Sleep(10 * time.Second)
						if err := ctx.Err(); err != nil {
							t.Errorf("its context has ended: %v", err)
						}
						return w.granting("late")(ctx)
					})
					done <- err
				}()
				synctest.Wait()
				began := time.Now()
				end(w)
				if took := time.Since(began); took != 10*time.Second {
					t.Errorf("it took %v", took)
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				w.wantStored(m, "canary-granted-late")
			})
		})
	}
}

func TestTheEndWaitsForAnExchangeNoLongerThanItsGrace(t *testing.T) {
	for name, end := range map[string]func(w *world){
		"Close":  func(w *world) { w.Close(3 * time.Second) },
		"Finish": func(w *world) { w.Finish(3 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			awaiting(t, func(w *world, _ *memory) {
				go func() {
					_, _, _ = w.Authorize(func(ctx context.Context) (*tokensource.Token, error) {
						<-ctx.Done()
						return nil, down
					})
				}()
				synctest.Wait()
				began := time.Now()
				end(w)
				if took := time.Since(began); took != 3*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestAfterCloseNothingIsExchangedRevokedOrRefreshed(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("yes")
		_, _, saves := m.see()
		w.Close(time.Minute)
		_, _, err := w.Authorize(func(context.Context) (*tokensource.Token, error) {
			t.Error("the code was sent")
			return nil, down
		})
		if err != error(errEnded) {
			t.Errorf("Authorize: %v", err)
		}
		if err := w.Revoke(func(context.Context, *tokensource.Token) error {
			t.Error("the token was revoked")
			return nil
		}); err != error(errEnded) {
			t.Errorf("Revoke: %v", err)
		}
		if err := w.Refresh(context.Background()); err != error(errEnded) {
			t.Errorf("Refresh: %v", err)
		}
		w.Look(context.Background())
		if _, _, after := m.see(); after != saves {
			t.Error("something was stored")
		}
	})
}

func TestBeforeAnEnvironmentIsThereNothingIsExchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(forPeople)
		_, _, err := r.Authorize(func(context.Context) (*tokensource.Token, error) {
			t.Error("the code was sent")
			return nil, down
		})
		if err != error(errEnded) {
			t.Errorf("%v", err)
		}
		if s := r.Status(); s.State != NoToken {
			t.Errorf("%+v", s)
		}
		r.Close(0)
	})
}

// counted counts how often the record is read.
type counted struct {
	*memory
	loads *atomic.Int64
}

func (c counted) Load(ctx context.Context) (*Record, error) {
	c.loads.Add(1)
	return c.memory.Load(ctx)
}

func TestARequestRightAfterAGrantOnAnotherNodeIsServed(t *testing.T) {
	for _, since := range []time.Duration{0, time.Millisecond, grantEvery / 2, grantEvery, time.Second, time.Hour} {
		awaiting(t, func(w *world, m *memory) {
			other := w.node(m)
			time.Sleep(time.Second)
			if _, err := other.Token(context.Background()); err == nil { // it has just looked
				t.Fatal("there is a token")
			}
			time.Sleep(since)
			w.grant("yes")
			began := time.Now()
			token, err := other.Token(context.Background())
			if err != nil || token.AccessToken != "canary-granted-yes" {
				t.Errorf("%v after its last look: %v, %v", since, token, err)
			}
			if waited := time.Since(began); waited > grantEvery {
				t.Errorf("%v after its last look a request waited %v", since, waited)
			}
			if s := other.Status(); s.State != Fresh || s.Counter != m.counter() {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A look that is under way when the request comes may have read the storage
// before the grant.
func TestARequestDoesNotRelyOnALookThatBeganBeforeIt(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		slow := &slowReads{memory: m}
		other := w.node(slow)
		time.Sleep(time.Second)
		slow.takes.Store(int64(500 * time.Millisecond))
		go func() { _, _ = other.Token(context.Background()) }()
		time.Sleep(100 * time.Millisecond) // it has read the storage, and does not know yet
		w.grant("yes")
		if token, err := other.Token(context.Background()); err != nil || token.AccessToken != "canary-granted-yes" {
			t.Errorf("%v, %v", token, err)
		}
	})
}

// slowReads is a storage whose answer arrives late.
type slowReads struct {
	*memory
	takes atomic.Int64
}

func (s *slowReads) Load(ctx context.Context) (*Record, error) {
	r, err := s.memory.Load(ctx)
	time.Sleep(time.Duration(s.takes.Load()))
	return r, err
}

func TestAStormOfRequestsWithoutAGrantMakesFewLooks(t *testing.T) {
	inWorldWithStore(t, forPeople, func(w *world, m *memory) {
		store := counted{m, new(atomic.Int64)}
		w.forPeople(store)
		time.Sleep(time.Second)
		store.loads.Store(0)
		for range 500 { // 50 each second, for ten
			go func() { _, _, _ = askFor(w.Refresher) }()
			time.Sleep(20 * time.Millisecond)
		}
		if n := store.loads.Load(); n < 10 || n > 103 { // ten each second, and the watch
			t.Errorf("the storage was read %d times in ten seconds", n)
		}
		w.wantRequests(0, 0)
		w.Close(0)
		synctest.Wait()
	})
}

// askFor is one request: how it ends, and after what time.
func askFor(r *Refresher) (token *tokensource.Token, waited time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	token, err = r.Token(ctx)
	return token, time.Since(began), err
}

func TestAProviderThatWithdrawsAGrantIsNotAskedAgainAndTheTokenServedToItsEnd(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		w.grant("yes")
		w.provider.fails(withdrawn())
		time.Sleep(50 * time.Minute)
		w.wantRequests(1, 1)
		w.wantServed("canary-granted-yes")
		if s := w.Status(); s.State != NeedsAuthorization || s.Token == nil || !s.RetryAt.IsZero() || !s.NextRenewal.IsZero() {
			t.Errorf("%+v", s)
		}
		w.wantSaid(zapcore.WarnLevel, "a person must authorize this source", map[string]any{
			"code": "invalid_grant", "status": int64(400), "command": "caddy token-source authorize main",
		})
		time.Sleep(11 * time.Minute)
		each(time.Minute, 24*time.Hour, w.needsPerson)
		w.wantRequests(1, 1)
		w.provider.fails(nil)
		w.grant("again")
		w.wantServed("canary-granted-again")
		time.Sleep(50 * time.Minute)
		w.wantRequests(2, 2)
	})
}

func TestAPassingFailureOfARenewalNeedsNoPerson(t *testing.T) {
	awaiting(t, func(w *world, _ *memory) {
		w.grant("yes")
		w.provider.fails(down)
		time.Sleep(2 * time.Hour)
		if s := w.Status(); s.State != NoToken || s.RetryAt.IsZero() || s.NextRenewal.IsZero() {
			t.Errorf("%+v", s)
		}
		w.provider.fails(nil)
		time.Sleep(2 * time.Minute)
		w.served()
		if s := w.Status(); s.State != Fresh {
			t.Errorf("%+v", s)
		}
	})
}

func TestARestartGoesOnWithWhatWasAuthorized(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("yes")
		w.Close(time.Minute)
		next := w.node(m)
		if token, err := next.Token(context.Background()); err != nil || token.AccessToken != "canary-granted-yes" {
			t.Errorf("%v, %v", token, err)
		}
		w.wantRequests(0, 0)
		time.Sleep(50 * time.Minute)
		w.wantRequests(1, 1)
		if s := next.Status(); s.State != Fresh {
			t.Errorf("%+v", s)
		}
	})
}

func TestNoSecretOfAGrantIsInTheLog(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		m.set(func(m *memory) { m.failure = errors.New("it fails") })
		w.grant("yes")
		_ = w.Revoke(func(context.Context, *tokensource.Token) error { panic("canary") })
		for _, entry := range w.log.All() {
			if text := entry.Message + " " + fmt.Sprint(entry.ContextMap()); strings.Contains(text, "canary") {
				t.Errorf("%s", text)
			}
		}
		m.set(func(m *memory) { m.failure = nil })
	})
}

func TestANodeWithAValidTokenHearsOfAGrantElsewhereWithinTenSeconds(t *testing.T) {
	awaiting(t, func(w *world, m *memory) {
		w.grant("old")
		store := counted{m, new(atomic.Int64)}
		other := w.node(store)
		time.Sleep(time.Second)
		w.grant("new")
		time.Sleep(watchEvery)
		synctest.Wait()
		if got := other.Current(); got == nil || got.AccessToken != "canary-granted-new" {
			t.Errorf("it serves %v", got)
		}
		before := store.loads.Load()
		time.Sleep(20 * time.Minute)
		if n := store.loads.Load() - before; n < 100 || n > 125 {
			t.Errorf("in 20 minutes it has read the storage %d times", n)
		}
		w.wantRequests(0, 0)
	})
}

func TestAStorageOfOneMachineIsNotWatched(t *testing.T) {
	inWorldWithStore(t, forPeople, func(w *world, m *memory) {
		m.shared = false
		store := counted{m, new(atomic.Int64)}
		w.forPeople(store)
		before := store.loads.Load()
		time.Sleep(10 * time.Minute)
		if n := store.loads.Load() - before; n != 0 {
			t.Errorf("in ten minutes it was read %d times", n)
		}
	})
}
