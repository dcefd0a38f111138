package refresher

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// pollEvery is how often the storage is looked at while a node waits for
	// what another one does.
	pollEvery = 200 * time.Millisecond

	// lockPatience is how long the lock is waited for. Intents are safe without
	// it; with it, nobody has to try twice. And a file storage's lock may be kept
	// fresh for ever by another node, which held it just before a node that was
	// killed.
	lockPatience = 2 * time.Second

	// beatEvery is how often the intent of a node that is alive changes, and
	// deadAfter how long another one waits for that. A node whose storage hangs for
	// a while is not dead.
	beatEvery = time.Second
	deadAfter = 10 * time.Second

	// permitFor is how old the last beat of an intent is at most when a refresh
	// token is sent, and how far beats are apart. It must be less than deadAfter:
	// until then nobody goes on without us.
	permitFor = 5 * time.Second
)

type claimID struct {
	node  string
	claim uint64
}

// other is another node that has an intent.
type other struct {
	beat uint64
	at   time.Time // when it changed
}

// lock waits for the lock of the storage, and meanwhile for what another node
// stores.
func (n *renewal) lock() (outcome, error) {
	ctx, cancel := context.WithCancel(context.Background())
	store := n.store()
	got := store.lock(ctx)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for began := time.Now(); ; {
		select {
		case err := <-got:
			if err != nil {
				cancel()
				return outcome{}, err
			}
			n.unlock = func() {
				if now := n.store(); now != store && store.do(store.Unlock) != nil {
					now.unlock() // the one with which it was taken is closed
				} else if now == store {
					store.unlock()
				}
				cancel()
			}
			return outcome{}, nil
		case <-n.ending():
			cancel()
			return outcome{}, errEnded
		case <-tick.C:
			found, err := n.adopt()
			if err == nil && n.spends() {
				_, err = n.intents()
			}
			switch {
			case found.token != nil:
				cancel()
				return found, nil
			case err == ErrHangs:
				cancel()
				return outcome{}, err
			case time.Since(began) >= lockPatience:
				cancel()
				return outcome{}, errBusy
			}
		}
	}
}

// patient says whether to wait for the outcome of another node any longer: as
// long as it harms nobody, and where there is no other way.
func (n *renewal) patient(waited time.Duration) bool {
	if n.r.options.OneUse || n.lives() {
		return waited < max(n.r.options.Timeout, deadAfter+lockPatience)
	}
	return waited < lockPatience
}

// spends says whether a token request takes a refresh token, which may be worth
// nothing afterwards.
func (n *renewal) spends() bool {
	return n.r.options.OneUse && !n.r.options.Person || n.state.token != nil && n.state.token.RefreshToken != ""
}

// lives says whether there is a token to serve meanwhile.
func (n *renewal) lives() bool {
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	return n.r.Current() != nil && !n.r.suspect
}

// intents returns those of other nodes that may be at work on the next token,
// and removes those that are not.
func (n *renewal) intents() (live []Intent, err error) {
	all, err := n.store().intents()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	others := n.r.options.Lineage.others
	there := make(map[claimID]bool)
	for _, intent := range all {
		id := claimID{intent.Node, intent.Claim}
		there[id] = true
		own := intent.Node == n.r.options.Lineage.node
		if own && intent.Claim == n.claim && n.claimed {
			continue
		}
		seen := others[id]
		if seen == nil || seen.beat != intent.Beat {
			n.state.shared = n.state.shared || seen != nil && !own // it is alive
			seen = &other{intent.Beat, now}
			others[id] = seen
		}
		switch {
		case own || intent.Counter <= n.state.counter: // it has ended
		case n.lives() || now.Sub(seen.at) < deadAfter:
			live = append(live, intent)
			continue
		}
		if err := n.store().removeIntent(intent); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(others, func(id claimID, _ *other) bool { return !there[id] })
	if mine := (claimID{n.r.options.Lineage.node, n.claim}); n.claimed && !there[mine] {
		return nil, errHides
	}
	return live, nil
}

// mostHidden is how often an intent of this node may be missing.
const mostHidden = 3

// errHides is what a storage is good for that does not show what was written.
var errHides = errors.New("the storage does not show what was written to it")

// intend stores the intent to spend the refresh token. Whoever stores one first
// and then looks for others cannot miss another who does the same: at most one
// sees nobody else.
func (n *renewal) intend() (outcome, error) {
	hidden := 0
	for began := time.Now(); ; {
		live, err := n.intents()
		if err != nil {
			return outcome{}, err
		}
		pause := pollEvery
		if len(live) == 0 {
			n.claim = n.r.options.Lineage.claims.Add(1)
			n.signs = new(signs)
			n.claimed = true // also where it fails: it may be there all the same
			if err := n.sign(); err != nil {
				return outcome{}, err
			}
			live, err = n.intents()
			if err == errHides && hidden < mostHidden {
				// Somebody who has gone on has removed it, or else it shows again.
				hidden++
			} else if err != nil {
				return outcome{}, err
			}
			if err == nil && len(live) == 0 {
				// Whoever has ended meanwhile has stored what it got, and removed its
				// intent after that.
				counter := n.state.counter
				if found, err := n.adopt(); found.token != nil || err != nil || n.state.counter == counter {
					return found, err
				}
			}
			n.disclaim()
			pause = time.Duration(float64(pollEvery) * (0.5 + rand.Float64())) //nolint:gosec // to get out of step
		}
		select {
		case <-time.After(pause):
		case <-n.ending():
			return outcome{}, errEnded
		}
		if found, err := n.adopt(); found.token != nil || err != nil {
			return found, err
		}
		if !n.patient(time.Since(began)) {
			return outcome{}, errBusy
		}
	}
}

func (n *renewal) intent() Intent { return n.r.options.Lineage.intent(n.claim, n.state.counter+1) }

// intent is that of this node. Its beat is the time, which none of the others
// compares with its own.
func (l *Lineage) intent(claim, counter uint64) Intent {
	return Intent{Node: l.node, Claim: claim, Counter: counter, Beat: uint64(time.Now().UnixNano())} //nolint:gosec // it differs
}

func (n *renewal) disclaim() {
	if n.claimed && n.store().removeIntent(n.intent()) == nil {
		n.claimed = false
	}
}

// leave ends what other nodes see of a renewal. An intent whose outcome could not
// be stored stays until it is.
func (n *renewal) leave() {
	if !n.spent {
		n.disclaim()
	}
	if n.unlock != nil {
		n.unlock()
		n.unlock = nil
	}
}

// beat shows other nodes that this one is alive, where it has an intent. The
// function that it returns ends that, and says for how long this process was
// frozen meanwhile.
func (n *renewal) beat() (end func() (asleep time.Duration)) {
	stop := make(chan struct{})
	var asleep time.Duration
	var beating sync.WaitGroup
	beating.Go(func() {
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-stop:
				asleep += max(0, time.Since(last)-2*beatEvery)
				return
			case <-tick.C:
			}
			if gap := time.Since(last); gap > 2*beatEvery {
				asleep += gap
			}
			if n.claimed {
				_ = n.sign()
			}
			last = time.Now()
		}
	})
	return sync.OnceValue(func() time.Duration {
		close(stop)
		beating.Wait()
		return asleep
	})
}

// sign stores the intent of this node, once more, so that others see it alive.
func (n *renewal) sign() error {
	at := n.r.now()
	if err := n.store().saveIntent(n.intent()); err != nil {
		return err
	}
	n.signs.mu.Lock()
	defer n.signs.mu.Unlock()
	// Where they did not see it for long, they may have gone on without it.
	n.signs.lapsed = n.signs.lapsed || !n.signs.last.IsZero() && apart(at, n.signs.last) > permitFor
	n.signs.last = at
	return nil
}

// signs are when the intent of this node was stored.
type signs struct {
	mu     sync.Mutex // guards what follows
	last   time.Time
	lapsed bool
}

// fresh says whether nobody can have gone on without this node.
func (s *signs) fresh(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.lapsed && apart(now, s.last) <= permitFor
}

// apart is the time between two times, by the clock that shows more of it.
func apart(a, b time.Time) time.Duration {
	return max(a.Sub(b).Abs(), a.Round(0).Sub(b.Round(0)).Abs())
}
