package refresher

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// newShared is a storage that others use as well.
func newShared() *memory {
	m := newMemory()
	m.shared = true
	return m
}

// holding puts a record with this refresh token into a storage.
func (m *memory) holding(r *Record, refreshToken string) {
	r.Token.RefreshToken = refreshToken
	m.set(func(m *memory) { m.record = r })
}

// counter is that of what is stored.
func (m *memory) counter() uint64 {
	if record, _, _ := m.see(); record != nil {
		return record.Counter
	}
	return 0
}

// newestCounter is that of the newest token in memory.
func (w *world) newestCounter() uint64 {
	newest := <-w.options.Lineage.newest
	w.options.Lineage.newest <- newest
	return newest.counter
}

// recordSpent notes each refresh token that the provider is sent.
func (w *world) recordSpent() func() []string {
	var mu sync.Mutex
	var spent []string
	w.provider.set(func(p *provider) {
		p.does = func(_ context.Context, previous *tokensource.Token) {
			mu.Lock()
			defer mu.Unlock()
			if previous == nil {
				spent = append(spent, "the configured one")
			} else {
				spent = append(spent, previous.RefreshToken)
			}
		}
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return spent
	}
}

func wantSpentOnce(t *testing.T, spent []string) {
	t.Helper()
	seen := make(map[string]bool)
	for _, token := range spent {
		if seen[token] {
			t.Errorf("spent twice: %s, of %v", token, spent)
		}
		seen[token] = true
	}
}

// rotation is a provider on the wire whose refresh tokens can be spent once.
type rotation struct {
	t        *testing.T
	connects time.Duration // until the request is sent

	mu    sync.Mutex // guards what follows
	spent map[string]bool
	sent  int
}

func newRotation(t *testing.T) *rotation { return &rotation{t: t, spent: make(map[string]bool)} }

func (p *rotation) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case <-time.After(p.connects):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent++
	if token := form.Get("refresh_token"); token != "" {
		if p.spent[token] {
			p.t.Errorf("%s was spent twice", token)
			return answerOf(400, `{"error":"invalid_grant"}`), nil
		}
		p.spent[token] = true
	}
	next := strconv.Itoa(p.sent)
	return answerOf(200, `{"access_token":"canary-access-`+next+`","refresh_token":"canary-refresh-`+next+`","expires_in":3600}`), nil
}

func (p *rotation) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent
}

// source asks this provider, beginning with a refresh token; "": by the client's
// own credentials.
func (p *rotation) source(refreshToken string) *tokensource.Source {
	p.t.Helper()
	config := tokensource.Config{
		Grant: "client_credentials", TokenURL: "https://auth.example.org/token", ClientID: "crm", ClientSecret: "canary-secret", Transport: p,
	}
	if refreshToken != "" {
		config.Grant, config.RefreshToken = "refresh_token", refreshToken
	}
	source, err := tokensource.New(config)
	if err != nil {
		p.t.Fatal(err)
	}
	return source
}

// judged is a memory that says of what it finds whether the source takes it.
type judged struct {
	*memory
	source *tokensource.Source
}

func (s judged) Load(ctx context.Context) (*Record, error) {
	r, err := s.memory.Load(ctx)
	if r == nil || err != nil {
		return nil, err
	}
	found := *r
	found.Foreign = !s.source.Takes(r.Token)
	return &found, nil
}

// startNode is a node of this source and storage.
func startNode(options Options, source *tokensource.Source, m *memory) *Refresher {
	r := New(options)
	r.Attach(&Environment{Source: source, Log: zap.NewNop(), Store: judged{m, source}})
	return r
}

func closeAll(nodes ...*Refresher) {
	for _, r := range nodes {
		r.Close(time.Minute)
	}
	time.Sleep(time.Minute)
}

// TestADeadNodeIsGivenUpWhateverTheTimeoutIs finds the intent of a node that has
// died, with timeouts that end before it can be known dead.
func TestADeadNodeIsGivenUpWhateverTheTimeoutIs(t *testing.T) {
	for _, timeout := range []time.Duration{4 * time.Second, 6 * time.Second, 10 * time.Second, 20 * time.Second} {
		inWorldWithStore(t, Options{OneUse: true, Timeout: timeout}, func(w *world, m *memory) {
			m.holding(w.stored(1, 2*time.Hour), "canary-refresh-stored")
			m.intents[claimID{"dead", 1}] = Intent{Node: "dead", Claim: 1, Counter: 2, Beat: 7}
			w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: m})
			time.Sleep(15 * time.Second)
			if w.Current() == nil {
				t.Errorf("with Timeout %v there is no token after %v: %v", timeout, w.elapsed(), w.failure)
			}
			w.wantRequests(1, 1)
		})
	}
}

func TestAReloadLeavesAnEntryAloneThatARefreshTokenSourceCannotRead(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
		w.withStore(m)
		w.served()
		// Another node has gone on, and encrypts with a key that this one lacks.
		m.set(func(m *memory) { m.record, m.reads, m.saves = nil, &Unreadable{Reason: "another key"}, 0 })
		w.withStore(m)
		time.Sleep(3 * time.Hour)
		if _, aside, saves := m.see(); aside || saves > 0 {
			t.Errorf("set aside: %v, stored %d times", aside, saves)
		}
		w.wantRequests(1, 1)
	})
}

func TestAReloadThatBringsTheKeyServesAgain(t *testing.T) {
	for _, had := range []bool{false, true} {
		inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
			unreadable := &Unreadable{Reason: "encrypted with another key"}
			entry := w.stored(7, 0)
			if had {
				w.withStore(m)
				w.served()
				record, _, _ := m.see()
				entry.Origin = record.Origin
			}
			m.set(func(m *memory) { m.record, m.reads = nil, unreadable })
			if had {
				time.Sleep(2 * time.Hour)
			} else {
				w.withStore(m)
			}
			if u := w.refused(); !strings.Contains(u.Error(), unreadable.Reason) {
				t.Errorf("%v", u)
			}
			readable := newShared() // the same entry, with the key
			entry.Token.Issued = w.now().Add(-10 * time.Minute)
			readable.holding(entry, "canary-refresh-7")
			w.withStore(readable)
			for range 3 { // a request may be what looks
				w.ask()
				time.Sleep(5 * time.Second)
			}
			if got := w.served(); got.AccessToken != "canary-stored" {
				t.Errorf("served is %s", got.AccessToken)
			}
		})
	}
}

// TestTheRecordOfAStorageThatIsJoinedWins joins a storage which others have had
// before, with a token of a higher and of a lower counter.
func TestTheRecordOfAStorageThatIsJoinedWins(t *testing.T) {
	for _, counter := range []uint64{3, 50, 90} {
		inWorldWithStore(t, Options{OneUse: true}, func(w *world, own *memory) {
			spent := w.recordSpent()
			own.holding(w.stored(50, 0), "canary-own")
			own.record.Origin = "own"
			w.withStore(own)
			w.served()
			cluster := newShared()
			cluster.holding(w.stored(counter, 0), "canary-cluster")
			cluster.record.Origin = "cluster"
			w.withStore(cluster)
			time.Sleep(time.Second)
			if record, _, saves := cluster.see(); saves > 0 || record.Token.RefreshToken != "canary-cluster" {
				t.Errorf("with %d it was stored %d times, and holds %s", counter, saves, record.Token.RefreshToken)
			}
			time.Sleep(time.Hour)
			if all := spent(); len(all) == 0 || all[0] != "canary-cluster" {
				t.Errorf("with %d spent are %v", counter, all)
			}
			wantSpentOnce(t, spent())
		})
	}
}

// TestWhoJoinsAClusterSpendsNothingThatItHasSpent has a node that was alone, and
// has gone on further than the cluster that it joins.
func TestWhoJoinsAClusterSpendsNothingThatItHasSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRotation(t)
		own, cluster := newShared(), newShared()
		inCluster, alone := p.source("canary-first-of-the-cluster"), p.source("canary-first-of-its-own")
		b := startNode(Options{OneUse: true}, inCluster, cluster)
		lineage := NewLineage()
		a := startNode(Options{OneUse: true, Lineage: lineage}, alone, own)
		time.Sleep(3 * time.Hour)
		for range 3 {
			a.Report(a.Current())
			time.Sleep(time.Minute)
		}
		joined := startNode(Options{OneUse: true, Lineage: lineage}, inCluster, cluster)
		go a.Close(time.Minute)
		time.Sleep(3 * time.Hour)
		record, _, _ := cluster.see()
		for name, r := range map[string]*Refresher{"who joined": joined, "who was there": b} {
			if token := r.Current(); token == nil || !alive(token, time.Now()) {
				t.Errorf("%s has no token: %v", name, token)
			}
		}
		if b.Current().AccessToken != joined.Current().AccessToken && record.Token.AccessToken != joined.Current().AccessToken && record.Token.AccessToken != b.Current().AccessToken {
			t.Errorf("no node has what is stored")
		}
		closeAll(joined, b)
	})
}

func TestTheAgeOfATokenInAnotherStorageIsItsOwn(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, own *memory) {
		w.withStore(own)
		cluster := newShared()
		time.Sleep(30 * time.Minute)
		cluster.holding(w.stored(30, 40*time.Minute), "canary-cluster")
		cluster.record.Origin = "cluster"
		w.withStore(cluster)
		time.Sleep(25 * time.Minute)
		if token := w.Current(); token == nil || token.AccessToken == "canary-stored" {
			t.Errorf("served is %v, which has ended", token)
		}
	})
}

func TestAReloadThatFailsLeavesTheNewestTokenInTheStorageThatStays(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, stays *memory) {
		spent := w.recordSpent()
		w.withStore(stays)
		detach := w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: newShared()})
		synctest.Wait()
		w.Report(w.served())
		synctest.Wait()
		detach()
		time.Sleep(10 * time.Second)
		if got, want := stays.counter(), w.newestCounter(); got != want || want < 2 {
			t.Errorf("the storage in use holds %d, the newest token is %d", got, want)
		}
		time.Sleep(3 * time.Hour)
		wantSpentOnce(t, spent())
	})
}

// TestAnotherNodesIntentThatBeatsMakesAStorageShared has Caddy's own folder, in
// which another node is at work: when the storage fails, it may have what is
// newest.
func TestAnotherNodesIntentThatBeatsMakesAStorageShared(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
		m.shared = false
		m.holding(w.stored(1, 47*time.Minute), "canary-refresh-1")
		other := Intent{Node: "other", Claim: 1, Counter: 2}
		m.intents[claimID{other.Node, other.Claim}] = other
		w.withStore(m)
		end, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-end:
					return
				case <-time.After(time.Second):
				}
				other.Beat++
				_ = m.SaveIntent(context.Background(), other)
			}
		}()
		time.Sleep(2 * time.Minute)
		w.wantRequests(0, 0)
		m.set(func(m *memory) { m.failure = errors.New("stale file handle") })
		time.Sleep(time.Hour)
		close(end)
		<-ended
		w.wantRequests(0, 0)
	})
}

// TestWhatCouldNotBeStoredIsStoredAtAnOrderlyEnd has a disk that has space again
// just before the end.
func TestWhatCouldNotBeStoredIsStoredAtAnOrderlyEnd(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
		m.shared = false
		w.withStore(m)
		m.set(func(m *memory) { m.failure = errors.New("no space left on device") })
		time.Sleep(3 * time.Hour)
		m.set(func(m *memory) { m.failure = nil })
		newest := w.newestCounter()
		if newest < 2 || m.counter() >= newest {
			t.Fatalf("stored is %d, in memory %d", m.counter(), newest)
		}
		w.Finish(4 * time.Second)
		w.Close(4 * time.Second)
		if got := m.counter(); got != newest {
			t.Errorf("the storage worked before the end and holds %d, the newest was %d", got, newest)
		}
	})
}

// TestARequestThatIsUnderWayIsStoredBeforeTheEnd ends while the provider answers;
// when Finish returns, the storage may be closed.
func TestARequestThatIsUnderWayIsStoredBeforeTheEnd(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
		w.provider.takes = 2 * time.Second
		w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: m})
		time.Sleep(time.Second)
		w.Finish(4 * time.Second)
		m.set(func(m *memory) { m.failure = errors.New("the client is closed") })
		if m.counter() != 1 || len(m.intents) != 0 {
			t.Errorf("stored is %d, with %d intents", m.counter(), len(m.intents))
		}
		w.Close(4 * time.Second)
	})
}

func TestAConnectionThatTakesLongStopsNoRenewal(t *testing.T) {
	for _, refreshToken := range []string{"canary-first", ""} {
		for _, connects := range []time.Duration{4 * time.Second, 6 * time.Second, 8 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				p := newRotation(t)
				p.connects = connects
				r := startNode(Options{OneUse: refreshToken != ""}, p.source(refreshToken), newShared())
				time.Sleep(connects + time.Second)
				each(10*time.Second, 3*time.Hour, func() {
					if token := r.Current(); token == nil || !alive(token, time.Now()) {
						t.Fatalf("with %v to connect there is %v", connects, token)
					}
				})
				if got := p.requests(); got < 4 || got > 6 {
					t.Errorf("with %v to connect there were %d token requests", connects, got)
				}
				closeAll(r)
			})
		}
	}
}

// hides is a storage that does not list what is in it.
type hides struct{ *memory }

func (hides) Intents(context.Context) ([]Intent, error) { return nil, nil }

// TestAStorageThatShowsNothingIsOneThatFails keeps a refresh token for which
// nobody can be warned.
func TestAStorageThatShowsNothingIsOneThatFails(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
		w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: hides{m}})
		synctest.Wait()
		time.Sleep(time.Minute)
		w.wantRequests(0, 0)
		// It is looked at again and again, for a moment each time.
		token, u, waited := w.ask()
		if token != nil || !strings.Contains(u.Error(), errHides.Error()) || waited > 2*time.Second {
			t.Errorf("%v, %v after %v", token, u, waited)
		}
	})
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: hides{m}})
		synctest.Wait()
		time.Sleep(3 * time.Hour)
		w.served() // there is the grant itself
	})
}

// TestAMachineThatSleptTakesOverNoTokenThatHasEnded sleeps while another node
// goes on, whose last token has ended too.
func TestAMachineThatSleptTakesOverNoTokenThatHasEnded(t *testing.T) {
	inWorldWithStore(t, Options{}, func(w *world, m *memory) {
		w.withStore(m)
		w.served()
		time.Sleep(30 * time.Minute)
		w.clock.move(8 * time.Hour)
		ended := w.stored(9, 0)
		ended.Token.Issued = w.now().Round(0).Add(-5 * time.Hour)
		m.holding(ended, "canary-refresh-9")
		time.Sleep(6 * time.Minute)
		w.ask()
		if token := w.Current(); token == nil || token.AccessToken == "canary-stored" {
			t.Errorf("served is %v", token)
		}
	})
}

// namelessOnce does not know whose entry is meant at its first look.
type namelessOnce struct {
	*memory
	once *sync.Once
}

func (s namelessOnce) Load(ctx context.Context) (record *Record, err error) {
	s.once.Do(func() { err = ErrNoIdentity })
	if err != nil {
		return nil, err
	}
	return s.memory.Load(ctx)
}

func TestATokenForWhichThereWasNoPlaceIsGoneOnWith(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
		spent := w.recordSpent()
		w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: namelessOnce{m, new(sync.Once)}})
		time.Sleep(3 * time.Hour)
		if len(spent()) < 3 {
			t.Errorf("spent are %v", spent())
		}
		wantSpentOnce(t, spent())
	})
}

// TestAChangedOptionGoesOnWithTheTokenThatLives changes an option of a source
// that has nothing but a refresh token.
func TestAChangedOptionGoesOnWithTheTokenThatLives(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
		spent := w.recordSpent()
		w.withStore(m)
		before := w.served()
		time.Sleep(10 * time.Minute)
		changed := New(Options{OneUse: true, RefreshAt: 0.5, Lineage: w.options.Lineage})
		changed.now = w.now
		changed.Attach(&Environment{Source: w.provider, Log: w.logger, Store: m})
		go w.Close(time.Minute)
		synctest.Wait()
		if token := changed.Current(); token == nil || token.AccessToken != before.AccessToken {
			t.Errorf("it has %v", token)
		}
		w.wantRequests(1, 1)
		time.Sleep(15 * time.Minute)
		w.wantRequests(1, 1)
		time.Sleep(15 * time.Minute) // it is half an hour old, and ten minutes more
		w.wantRequests(2, 2)
		wantSpentOnce(t, spent())
		changed.Close(time.Second)
	})
}

// TestAChangedOptionSpendsNothingWhileTheStorageIsDown changes an option, and what
// is stored can be read again only later.
func TestAChangedOptionSpendsNothingWhileTheStorageIsDown(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true}, func(w *world, m *memory) {
		w.withStore(m)
		before := w.served()
		m.set(func(m *memory) { m.failure = errors.New("down") })
		changed := New(Options{OneUse: true, RefreshAt: 0.7, Lineage: w.options.Lineage})
		changed.now = w.now
		changed.Attach(&Environment{Source: w.provider, Log: w.logger, Store: m})
		go w.Close(time.Minute)
		time.Sleep(10 * time.Second)
		w.wantRequests(1, 1)
		m.set(func(m *memory) { m.failure = nil })
		time.Sleep(5 * time.Second)
		if token := changed.Current(); token == nil || token.AccessToken != before.AccessToken {
			t.Errorf("it has %v", token)
		}
		w.wantRequests(1, 1)
		changed.Close(time.Second)
	})
}

// view is one of several ways to the same storage, which is closed some time.
type view struct {
	*memory
	closed *atomic.Bool
}

var errClosed = errors.New("the client is closed")

func (v view) Load(ctx context.Context) (*Record, error) {
	if v.closed.Load() {
		return nil, errClosed
	}
	return v.memory.Load(ctx)
}

func (v view) Save(ctx context.Context, r *Record) error {
	if v.closed.Load() {
		return errClosed
	}
	return v.memory.Save(ctx, r)
}

func (v view) SaveIntent(ctx context.Context, i Intent) error {
	if v.closed.Load() {
		return errClosed
	}
	return v.memory.SaveIntent(ctx, i)
}

func (v view) RemoveIntent(ctx context.Context, i Intent) error {
	if v.closed.Load() {
		return errClosed
	}
	return v.memory.RemoveIntent(ctx, i)
}

func (v view) Unlock(ctx context.Context) error {
	if v.closed.Load() {
		return errClosed
	}
	return v.memory.Unlock(ctx)
}

// TestARequestThatAReloadOvertookGoesOnInTheSameStorage has a reload give another
// way to the same storage, and close the one with which the request has begun.
func TestARequestThatAReloadOvertookGoesOnInTheSameStorage(t *testing.T) {
	inWorldWithStore(t, Options{OneUse: true, Timeout: time.Minute}, func(w *world, m *memory) {
		before, after := view{m, new(atomic.Bool)}, view{m, new(atomic.Bool)}
		w.provider.takes = 20 * time.Second
		detach := w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: before})
		time.Sleep(time.Second)
		w.Attach(&Environment{Source: w.provider, Log: w.logger, Store: after})
		detach()
		before.closed.Store(true)
		beat := func() (all uint64) {
			m.set(func(m *memory) {
				for _, intent := range m.intents {
					all += intent.Beat
				}
			})
			return all
		}
		for last := beat(); w.elapsed() < 18*time.Second; {
			time.Sleep(3 * time.Second)
			now := beat()
			if now <= last {
				t.Fatalf("after %v the beat is still %d", w.elapsed(), now)
			}
			last = now
		}
		time.Sleep(5 * time.Second)
		w.served()
		if m.counter() != 1 || len(m.intents) != 0 || len(m.lock) != 0 {
			t.Errorf("stored is %d, with %d intents and %d locks", m.counter(), len(m.intents), len(m.lock))
		}
		w.wantRequests(1, 1)
	})
}
