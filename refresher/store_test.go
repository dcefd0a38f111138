package refresher

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// memory is a Store that does what a test wants of it.
type memory struct {
	mu      sync.Mutex // guards what follows
	record  *Record
	aside   bool
	failure error         // of everything
	hangs   time.Duration // likewise
	reads   error         // of Load alone
	saves   int
	shared  bool
	intents map[claimID]Intent
	lock    chan struct{}
}

func newMemory() *memory {
	return &memory{intents: make(map[claimID]Intent), lock: make(chan struct{}, 1)}
}

func (m *memory) set(change func(m *memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

// see returns what is stored.
func (m *memory) see() (record *Record, aside bool, saves int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record, m.aside, m.saves
}

func (m *memory) access() error {
	m.mu.Lock()
	hangs, failure := m.hangs, m.failure
	m.mu.Unlock()
	time.Sleep(hangs)
	return failure
}

func (m *memory) Load(context.Context) (*Record, error) {
	if err := m.access(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record, m.reads
}

func (m *memory) Save(_ context.Context, r *Record) error {
	if err := m.access(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record = r
	m.saves++
	return nil
}

func (m *memory) SetAside(context.Context) error {
	m.set(func(m *memory) { m.aside, m.reads, m.record = true, nil, nil })
	return nil
}

func (m *memory) Shared() bool { return m.shared }

func (m *memory) Intents(context.Context) (all []Intent, err error) {
	if err := m.access(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range m.intents {
		all = append(all, i)
	}
	return all, nil
}

func (m *memory) SaveIntent(_ context.Context, i Intent) error {
	if err := m.access(); err != nil {
		return err
	}
	m.set(func(m *memory) { m.intents[claimID{i.Node, i.Claim}] = i })
	return nil
}

func (m *memory) RemoveIntent(_ context.Context, i Intent) error {
	if err := m.access(); err != nil {
		return err
	}
	m.set(func(m *memory) { delete(m.intents, claimID{i.Node, i.Claim}) })
	return nil
}

func (m *memory) Lock(ctx context.Context) error {
	if err := m.access(); err != nil {
		return err
	}
	select {
	case m.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *memory) Unlock(context.Context) error { <-m.lock; return nil }

// withStore attaches the refresher to a storage, and waits for its outcome.
func (w *world) withStore(m *memory) {
	w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: m})
	synctest.Wait()
}

// stored is a record of a token that lives for an hour.
func (w *world) stored(counter uint64, age time.Duration) *Record {
	return &Record{Counter: counter, Token: &tokensource.Token{AccessToken: "canary-stored", Issued: w.now().Add(-age), Lifetime: time.Hour}}
}

// inWorldWithStore is inWorld without its reckoning of lines in the log: where
// there is a storage, they are not one for each token request.
func inWorldWithStore(t *testing.T, options Options, test func(w *world, m *memory)) {
	t.Helper()
	inWorld(t, options, func(w *world) {
		m := newMemory()
		m.shared = true
		test(w, m)
		w.Close(time.Hour)
		synctest.Wait()
		w.log.TakeAll()
		w.provider.set(func(p *provider) { p.began = nil })
	})
}

func TestATokenThatIsStoredIsAdoptedAndNobodyAsked(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		m.record = w.stored(5, 10*time.Minute)
		w.withStore(m)
		if got := w.served(); got.AccessToken != "canary-stored" {
			t.Errorf("served %v", got)
		}
		w.wantRequests(0, 0)
		time.Sleep(39 * time.Minute) // it is renewed when its time has come, not later
		w.wantRequests(0, 1)
		time.Sleep(2 * time.Minute)
		w.wantRequests(1, 1)
		if record, _, _ := m.see(); record.Counter != 6 {
			t.Errorf("stored is %d", record.Counter)
		}
	})
}

func TestATokenThatIsStoredAndHasEndedIsNotServed(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		m.record = w.stored(5, 2*time.Hour)
		w.withStore(m)
		if got := w.served(); got.AccessToken == "canary-stored" {
			t.Error("it is")
		}
		w.wantRequests(1, 1)
	})
}

func TestATokenOfOtherOptionsIsNotServed(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		m.record = w.stored(5, 0)
		m.record.Foreign = true
		var previous string
		w.provider.does = func(_ context.Context, p *tokensource.Token) { previous = p.AccessToken }
		w.withStore(m)
		if got := w.served(); got.AccessToken == "canary-stored" {
			t.Error("it is")
		}
		if previous != "canary-stored" {
			t.Errorf("its refresh token was not used: %q", previous)
		}
	})
}

func TestARefusedTokenGivesWayToTheOneThatAnotherNodeHasStored(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		w.withStore(m)
		w.wantRequests(1, 1)
		m.set(func(m *memory) { m.record = w.stored(9, 0) })
		if replaced, fresh, _ := w.replace(); !replaced || fresh {
			t.Errorf("replaced %v, fresh %v", replaced, fresh)
		}
		w.wantRequests(1, 1)
		// That cost the provider nothing, and is no reason not to ask.
		if replaced, fresh, _ := w.replace(); !replaced || !fresh {
			t.Errorf("replaced %v, fresh %v", replaced, fresh)
		}
		w.wantRequests(2, 2)
	})
}

func TestARequestFindsWhatAnotherNodeHasStoredWhileTheProviderRejectsThisOne(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		w.provider.fails(rejected(nil))
		w.withStore(m)
		if u := w.refused(); !u.Permanent {
			t.Errorf("%#v", u)
		}
		m.set(func(m *memory) { m.record = w.stored(2, 0) })
		time.Sleep(2 * time.Second)
		w.served()
		w.wantRequests(1, 1)
	})
}

func TestAStorageThatFailsOrHangsKeepsNobodyFromAToken(t *testing.T) {
	for name, fault := range map[string]func(m *memory){
		"fails": func(m *memory) { m.failure = errors.New("no space left on device") },
		"hangs": func(m *memory) { m.hangs = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			inWorldWithStore(t, Options{}, func(w *world, m *memory) {
				fault(m)
				w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: m})
				if _, err, waited := w.ask(); err != nil || waited > storePatience {
					t.Fatalf("%v after %v", err, waited)
				}
				synctest.Wait()
				if n := w.log.FilterMessageSnippet("could not be stored").Len(); n != 1 {
					t.Errorf("the log says so %d times", n)
				}
				time.Sleep(3 * time.Hour)
				w.served()
				if n := w.log.FilterMessageSnippet("could not be stored").Len(); n != 1 {
					t.Errorf("hours later the log says so %d times", n)
				}
				m.set(func(m *memory) { m.failure, m.hangs = nil, 0 })
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if record, _, _ := m.see(); record == nil || record.Token.AccessToken != w.served().AccessToken {
					t.Error("the token is not stored again")
				}
				if n := w.log.FilterMessageSnippet("stored again").Len(); n != 1 {
					t.Errorf("the log says %d times that it is", n)
				}
			})
		})
	}
}

func TestWithoutItsStorageARefreshTokenIsSpentByNobodyWhoMayNotBeAlone(t *testing.T) {
	for _, shared := range []bool{true, false} {
		inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
			m.shared = shared
			w.provider.lifetime = time.Minute
			w.withStore(m)
			w.wantRequests(1, 1)
			m.set(func(m *memory) { m.failure = errors.New("no space left on device") })
			time.Sleep(10 * time.Minute)
			if shared {
				u := w.refused()
				if u.Permanent || !strings.Contains(u.Error(), "no space left on device") {
					t.Errorf("%v", u)
				}
				w.wantRequests(1, 1)
				m.set(func(m *memory) { m.failure = nil })
				time.Sleep(5 * time.Second)
			}
			w.served()
			w.wantRequests(2, 20)
		})
	}
}

func TestAConfiguredRefreshTokenIsNotSentBeforeTheStorageWasRead(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
		m.shared, m.failure = false, errors.New("not mounted yet")
		w.withStore(m)
		w.wantRequests(0, 0)
		m.set(func(m *memory) { m.failure, m.record = nil, w.stored(3, 0) })
		time.Sleep(5 * time.Second)
		if got := w.served(); got.AccessToken != "canary-stored" {
			t.Errorf("served %v", got)
		}
		w.wantRequests(0, 0)
	})
}

func TestAnUnreadableEntryIsPutAsideWhereAnotherTokenCanBeHad(t *testing.T) {
	damaged := &Unreadable{Reason: "the entry is damaged"}
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		m.reads = damaged
		w.withStore(m)
		w.served()
		if _, aside, saves := m.see(); !aside || saves != 1 {
			t.Errorf("put aside: %v, stored %d times", aside, saves)
		}
	})
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
		m.reads = damaged
		w.withStore(m)
		if u := w.refused(); !u.Permanent || !strings.Contains(u.Error(), "damaged; to begin anew") {
			t.Errorf("%v", u)
		}
		if _, aside, saves := m.see(); aside || saves != 0 {
			t.Errorf("put aside: %v, stored %d times", aside, saves)
		}
		w.wantRequests(0, 0)
		m.set(func(m *memory) { m.reads = nil }) // an operator has removed it
		time.Sleep(10 * time.Second)
		w.ask()
		w.served()
	})
}

func TestAnEntryOfALaterVersionIsNeverTouched(t *testing.T) {
	for _, oneUse := range []bool{true, false} {
		inWorldWithStore(t, Options{OneUse: oneUse}, func(w *world, m *memory) {
			m.reads = &Unreadable{Reason: "later", Newer: true}
			w.withStore(m)
			if oneUse {
				w.refused()
			} else {
				w.served()
			}
			time.Sleep(3 * time.Hour)
			if _, aside, saves := m.see(); aside || saves != 0 {
				t.Errorf("put aside: %v, stored %d times", aside, saves)
			}
		})
	}
}

func TestAnotherStorageGetsTheTokenWhenItsConfigurationStarts(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		w.withStore(m)
		other := newMemory()
		w.withStore(other)
		if record, _, _ := other.see(); record == nil || record.Token.AccessToken != w.served().AccessToken {
			t.Errorf("it holds %v", record)
		}
		w.wantRequests(1, 1)
	})
}

func TestAStorageThatLosesTheRecordGetsItAgain(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		w.withStore(m)
		m.set(func(m *memory) { m.record = nil })
		time.Sleep(time.Hour)
		if record, _, _ := m.see(); record == nil || record.Counter < 2 {
			t.Errorf("it holds %v", record)
		}
	})
}

// A lock that somebody holds for ever holds up nobody for long.
func TestADeadLockIsWaitedForTwoSeconds(t *testing.T) {
	for _, oneUse := range []bool{true, false} {
		inWorldWithStore(t, Options{OneUse: oneUse}, func(w *world, m *memory) {
			m.lock <- struct{}{}
			w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: m})
			if _, err, waited := w.ask(); err != nil || waited > 3*time.Second {
				t.Errorf("%v after %v", err, waited)
			}
			<-m.lock
		})
	}
}

func TestAPanicOfTheStorageIsAFailureOfIt(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: panics{m}})
		synctest.Wait()
		w.served()
	})
}

type panics struct{ *memory }

func (panics) Load(context.Context) (*Record, error) { panic("canary") }

func TestTheAgeOfAnAdoptedTokenIsReckonedByThisClock(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name          string
		issued, since time.Duration // before now; since 0: never looked
		want          time.Duration // of its age
	}{
		{"clocks agree", time.Minute, time.Hour, time.Minute},
		{"its clock is behind", time.Hour, time.Minute, time.Minute},
		{"its clock is ahead", -time.Hour, time.Minute, time.Minute},
		{"its clock is ahead, at the first look", -time.Hour, 0, 0},
		{"at the first look", time.Hour, 0, time.Hour},
	} {
		var since time.Time
		if c.since > 0 {
			since = now.Add(-c.since)
		}
		got := onThisClock(&tokensource.Token{Issued: now.Add(-c.issued)}, since, now)
		if age := now.Sub(got.Issued); age != c.want {
			t.Errorf("%s: it is %v old, want %v", c.name, age, c.want)
		}
	}
}
