package refresher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// This file is a model of a cluster: three nodes, each a real refresher with a
// real token source, over a storage and a provider that fail, pause and die at
// every step, on virtual time. A schedule is drawn from a seed, so that one which
// fails can be run again: go test -run Model -model.seed N ./refresher

// model is one schedule.
type model struct {
	t      *testing.T
	random *rand.Rand
	faulty float64 // how often an access of the storage fails
	oneUse bool    // grant refresh_token, else client_credentials
	person bool    // grant authorization_code, and oneUse
	store  modelStorage
	nodes  []*modelNode

	provider modelProvider

	acts sync.WaitGroup // of persons

	mu     sync.Mutex // guards events
	events []string
}

func (m *model) log(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, fmt.Sprintf("%9.3f ", time.Since(modelBegan).Seconds())+fmt.Sprintf(format, args...))
}

var modelBegan = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // of every bubble

// chance is true with a probability. All of the model runs in a bubble, in which
// one goroutine after the other is not guaranteed: a seed gives much the same
// schedule again, not always the very same.
func (m *model) chance(p float64) bool {
	m.provider.mu.Lock()
	defer m.provider.mu.Unlock()
	return m.random.Float64() < p
}

// fails says whether this access of the storage does.
func (m *model) fails(share float64) bool {
	m.provider.mu.Lock()
	defer m.provider.mu.Unlock()
	return m.random.Float64() < m.faulty*share
}

func (m *model) upTo(d time.Duration) time.Duration {
	m.provider.mu.Lock()
	defer m.provider.mu.Unlock()
	return time.Duration(m.random.Int64N(int64(d)))
}

// modelNode is one process. Every step that others could see goes through step,
// where it may be frozen, killed or slow.
type modelNode struct {
	m       *model
	id      string
	skew    time.Duration
	r       *Refresher
	source  *tokensource.Source
	detach  func()
	mu      sync.Mutex
	thaw    chan struct{} // not nil while it is frozen
	dead    chan struct{}
	pending bool // it has spent a refresh token, and not stored the outcome
	hurt    bool // it was killed or frozen then
}

var errDead = errors.New("this node is dead")

// step is a moment in which anything may happen to a node.
func (n *modelNode) step(most time.Duration) error {
	time.Sleep(n.m.upTo(most))
	for {
		n.mu.Lock()
		thaw := n.thaw
		n.mu.Unlock()
		select {
		case <-n.dead:
			return errDead
		default:
		}
		if thaw == nil {
			return nil
		}
		select {
		case <-thaw:
		case <-n.dead:
		}
	}
}

func (n *modelNode) now() time.Time { return time.Now().Add(n.skew) }

func (n *modelNode) isHurt() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hurt
}

func (n *modelNode) setPending(pending bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending = pending
}

// modelStorage is one storage for all nodes, with a lock as certmagic's file
// storage has it: it goes stale ten seconds after its holder has died, by the
// clock of whoever looks, and it does not know its owner.
type modelStorage struct {
	mu      sync.Mutex
	record  *modelRecord
	intents map[claimID]Intent
	lock    *modelLock

	overwritten string // which node has put an older record in the place of a newer one
}

func (s *modelStorage) overwriter() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.overwritten
}

type modelRecord struct {
	counter uint64
	origin  string
	grant   uint64
	token   []byte
	shared  bool
}

type modelLock struct{ updated time.Time }

// modelStore is that storage as one node sees it.
type modelStore struct {
	*modelNode
	source *tokensource.Source
}

// access is one access of the storage. It may fail before or after it had its
// effect.
func (s *modelStore) access(what string, effect func(*modelStorage)) error {
	if err := s.step(20 * time.Millisecond); err != nil {
		return err
	}
	if s.m.fails(1) {
		if s.m.chance(0.2) {
			time.Sleep(s.m.upTo(5 * time.Second)) // it hangs
		}
		return errors.New("the storage fails")
	}
	s.m.store.mu.Lock()
	effect(&s.m.store)
	s.m.store.mu.Unlock()
	if what != "" {
		s.m.log("%s %s", s.id, what)
	}
	if err := s.step(20 * time.Millisecond); err != nil {
		return err
	}
	if s.m.fails(1.0 / 3) {
		return errors.New("the storage has done it, and fails")
	}
	return nil
}

func (s *modelStore) Shared() bool { return true }

func (s *modelStore) Load(context.Context) (out *Record, err error) {
	err = s.access("", func(storage *modelStorage) {
		if r := storage.record; r != nil && r.token == nil {
			out = &Record{Counter: r.counter, Origin: r.origin, Grant: r.grant, Shared: r.shared}
		} else if r != nil {
			token, problem := tokensource.Decode(r.token)
			if problem != nil {
				s.m.t.Error(problem)
				return
			}
			out = &Record{Counter: r.counter, Origin: r.origin, Grant: r.grant, Token: token, Foreign: !s.source.Takes(token), Shared: r.shared}
		}
	})
	return out, err
}

func (s *modelStore) Save(_ context.Context, r *Record) error {
	var text []byte
	if r.Token != nil {
		var err error
		if text, err = r.Token.Encode(); err != nil {
			return err
		}
	}
	return s.access(fmt.Sprint("saves ", r.Counter), func(storage *modelStorage) {
		if storage.record != nil && storage.record.counter > r.Counter {
			s.m.log("%s OVERWRITES %d", s.id, storage.record.counter)
			if s.isHurt() { // it was frozen between its last look and the write itself
				storage.overwritten = s.id
			}
		}
		storage.record = &modelRecord{r.Counter, r.Origin, r.Grant, text, r.Shared}
		s.setPending(false)
	})
}

func (s *modelStore) SetAside(context.Context) error { return nil }

func (s *modelStore) Intents(context.Context) (out []Intent, err error) {
	err = s.access("", func(storage *modelStorage) {
		for _, i := range storage.intents {
			out = append(out, i)
		}
	})
	return out, err
}

func (s *modelStore) SaveIntent(_ context.Context, i Intent) error {
	return s.access(fmt.Sprint("intends ", i), func(storage *modelStorage) { storage.intents[claimID{i.Node, i.Claim}] = i })
}

func (s *modelStore) RemoveIntent(_ context.Context, i Intent) error {
	return s.access(fmt.Sprint("removes the intent ", i), func(storage *modelStorage) { delete(storage.intents, claimID{i.Node, i.Claim}) })
}

func (s *modelStore) Lock(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		got := false
		if err := s.access("", func(storage *modelStorage) {
			if l := storage.lock; l != nil && s.now().Sub(l.updated).Abs() <= 10*time.Second {
				return
			}
			got = true
			l := &modelLock{s.now()}
			storage.lock = l
			go s.refreshLock(l)
		}); err != nil {
			return err
		}
		if got {
			s.m.log("%s locks", s.id)
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (s *modelStore) refreshLock(l *modelLock) {
	for {
		time.Sleep(5 * time.Second)
		if s.step(time.Millisecond) != nil {
			return
		}
		s.m.store.mu.Lock()
		held := s.m.store.lock == l
		if held {
			l.updated = s.now()
		}
		s.m.store.mu.Unlock()
		if !held {
			return
		}
	}
}

func (s *modelStore) Unlock(context.Context) error {
	return s.access("unlocks", func(storage *modelStorage) { storage.lock = nil })
}

// modelProvider rotates refresh tokens, and revokes all that came of one when a
// spent one comes again.
type modelProvider struct {
	mu       sync.Mutex // guards it, and the model's random
	failing  float64
	lifetime time.Duration
	next     int
	families map[string]*modelFamily // by refresh token
	access   map[string]*modelFamily // by access token that was issued
	twice    []string                // how it came that one was spent twice
}

type modelFamily struct {
	newest  string
	spender map[string]*modelNode
	revoked bool
}

// modelWire carries a node's token requests.
type modelWire struct{ *modelNode }

func (w modelWire) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := w.step(50 * time.Millisecond); err != nil { // dials
		return nil, err
	}
	body, err := io.ReadAll(req.Body) // is written; a permit was given in this very moment
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	p := &w.m.provider
	p.mu.Lock()
	failing := p.failing
	p.mu.Unlock()
	if w.m.chance(failing) {
		time.Sleep(w.m.upTo(500 * time.Millisecond))
		return answerOf(http.StatusServiceUnavailable, "{}"), nil
	}
	answer := w.revoke(form)
	if answer == nil {
		answer = w.answer(form)
	}
	if err := w.step(450 * time.Millisecond); err != nil {
		return nil, err
	}
	return answer, nil
}

func (w modelWire) answer(form url.Values) *http.Response {
	p := &w.m.provider
	p.mu.Lock()
	defer p.mu.Unlock()
	spent := form.Get("refresh_token")
	family := p.families[spent]
	if form.Get("grant_type") == "refresh_token" {
		switch {
		case family == nil || family.revoked:
			w.m.log("%s is refused", w.id)
			return answerOf(http.StatusBadRequest, `{"error":"invalid_grant"}`)
		case family.newest != spent:
			first := family.spender[spent]
			family.revoked = true
			cause := "UNEXPLAINED"
			if first.isHurt() {
				cause = first.id + " was killed or frozen after it had sent it"
			} else if by := w.m.store.overwriter(); by != "" {
				cause = by + " was frozen while it stored something, and overwrote the record of " + first.id
			}
			p.twice = append(p.twice, spent+": "+cause)
			w.m.log("%s SPENDS %s TWICE, after %s: %s", w.id, spent, first.id, cause)
			return answerOf(http.StatusBadRequest, `{"error":"invalid_grant"}`)
		}
	} else {
		family = &modelFamily{spender: make(map[string]*modelNode)}
	}
	p.next++
	refresh, access := "refresh-"+strconv.Itoa(p.next), "access-"+strconv.Itoa(p.next)
	if spent != "" {
		family.spender[spent] = w.modelNode
		w.setPending(true)
	}
	family.newest = refresh
	p.families[refresh] = family
	p.access[access] = family
	w.m.log("%s gets %s for %q", w.id, access, spent)
	return answerOf(http.StatusOK, fmt.Sprintf(`{"access_token":%q,"refresh_token":%q,"expires_in":%g}`, access, refresh, p.lifetime.Seconds()))
}

func answerOf(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body))}
}

// skewed gives tokens the time of their issue by the node's clock.
type skewed struct {
	*modelNode
	source *tokensource.Source
}

func (s skewed) Obtain(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
	t, err := s.source.Obtain(ctx, previous)
	if t == nil {
		return nil, err
	}
	late := *t
	late.Issued = late.Issued.Add(s.skew)
	return &late, err
}

// start begins the process of a node.
func (m *model) start(slot int, skew time.Duration) {
	m.provider.mu.Lock()
	m.provider.next++
	n := &modelNode{m: m, id: fmt.Sprintf("n%d-%d", slot, m.provider.next), skew: skew, dead: make(chan struct{})}
	m.provider.mu.Unlock()
	config := tokensource.Config{
		Grant: "client_credentials", TokenURL: "https://auth.example.org/token", ClientID: "crm", ClientSecret: "s3cr3t-of-the-model",
		Transport: modelWire{n},
	}
	switch {
	case m.person:
		config.Grant, config.RevokeURL = "authorization_code", "https://auth.example.org/revoke"
	case m.oneUse:
		config.Grant, config.RefreshToken = "refresh_token", "refresh-seed"
	}
	source, err := tokensource.New(config)
	if err != nil {
		m.t.Fatal(err)
	}
	n.source = source
	n.r = New(Options{OneUse: m.oneUse, Person: m.person})
	n.r.now = n.now
	m.nodes[slot] = n
	m.log("%s starts, %v ahead", n.id, skew)
	n.detach = n.r.Attach(&Environment{Source: skewed{n, source}, Store: &modelStore{n, source}, Log: zap.NewNop()})
}

// hurts says whether a node may be killed or frozen now: one whose grant has no
// other way may not, while it has spent its refresh token and not stored what
// came of it. No client survives that.
func (n *modelNode) hurts() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pending && n.m.oneUse {
		return false
	}
	n.hurt = n.hurt || n.pending
	return true
}

func (n *modelNode) kill() {
	close(n.dead)
	go n.r.Close(0)
}

func (n *modelNode) freeze(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	thaw := make(chan struct{})
	n.thaw = thaw
	time.AfterFunc(d, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.thaw == thaw {
			n.thaw = nil
		}
		close(thaw)
	})
}

// run goes through one schedule.
func (m *model) run() {
	const length = 40 * time.Second
	m.store.intents = make(map[claimID]Intent)
	m.provider.families = map[string]*modelFamily{"refresh-seed": {newest: "refresh-seed", spender: make(map[string]*modelNode)}}
	m.provider.access = make(map[string]*modelFamily)
	skews := make([]time.Duration, 3)
	if m.chance(0.4) {
		for i := range skews {
			skews[i] = m.upTo(10*time.Minute) - 5*time.Minute
		}
	}
	m.nodes = make([]*modelNode, 3)
	for slot := range m.nodes {
		m.start(slot, skews[slot])
		time.Sleep(m.upTo(time.Second))
	}
	for began := time.Now(); time.Since(began) < length; {
		time.Sleep(m.upTo(1500 * time.Millisecond))
		slot := int(m.upTo(3))
		n := m.nodes[slot]
		switch {
		case m.person && m.chance(0.3):
			m.actOfAPerson(n)
		case m.chance(0.25): // an upstream refuses
			if token := n.r.Current(); token != nil {
				m.log("%s reports %s", n.id, token.AccessToken)
				n.r.Report(token)
			}
		case m.chance(0.25):
			if n.hurts() {
				d := m.upTo(25 * time.Second)
				m.log("%s is frozen for %v", n.id, d)
				n.freeze(d)
			}
		case m.chance(0.25):
			if n.hurts() {
				m.log("%s is killed", n.id)
				n.kill()
				time.Sleep(m.upTo(time.Second))
				m.start(slot, skews[slot])
			}
		case m.chance(0.2) && n.hurts():
			m.log("%s is stopped", n.id)
			n.r.Close(5 * time.Second)
			n.mu.Lock() // what it has not stored by now is lost
			n.hurt = n.hurt || n.pending
			n.mu.Unlock()
			close(n.dead)
			m.start(slot, skews[slot])
		}
	}
	m.settle()
}

// settle ends all faults, and wants each node to have a token that the provider
// has issued.
func (m *model) settle() {
	m.log("all faults end")
	m.provider.mu.Lock()
	m.faulty, m.provider.failing = 0, 0
	m.provider.mu.Unlock()
	for _, n := range m.nodes {
		if n.r == nil {
			continue
		}
		n.mu.Lock()
		thaw := n.thaw
		n.mu.Unlock()
		if thaw != nil {
			<-thaw
		}
		if m.person {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		for {
			token, err := n.r.Token(ctx)
			if err == nil {
				m.provider.mu.Lock()
				if _, issued := m.provider.access[token.AccessToken]; !issued {
					m.t.Errorf("%s has a token that nobody has issued", n.id)
				}
				m.provider.mu.Unlock()
				break
			}
			if ctx.Err() != nil {
				if !m.oneUse || len(m.provider.twice) == 0 {
					m.t.Errorf("%s gets no token any more: %v", n.id, err)
				}
				break
			}
			time.Sleep(time.Second)
		}
		cancel()
	}
	if m.person {
		m.settlePerson()
	}
	for _, n := range m.nodes {
		n.r.Close(time.Minute)
		select {
		case <-n.dead:
		default:
			close(n.dead)
		}
	}
	time.Sleep(time.Minute)
	for _, cause := range m.provider.twice {
		if strings.Contains(cause, "UNEXPLAINED") {
			m.t.Errorf("a refresh token was spent twice: %s", cause)
		}
	}
	if m.t.Failed() {
		m.t.Logf("%s", strings.Join(m.events, "\n"))
	}
}
