package caddy_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// load sends requests at a steady rate, whether or not the earlier ones have
// been answered: a slow answer does not slow the next caller, as in life.
type load struct {
	url      string
	client   *http.Client
	attempts int // of a request whose connection is dropped
	stop     chan struct{}
	ended    chan struct{} // closed when every request has been answered
	once     sync.Once

	mu    sync.Mutex // guards asked
	asked []*loadRequest
}

// loadRequest is a request of a load. What it came to is written before done is
// closed.
type loadRequest struct {
	began, ended time.Time
	done         chan struct{}
	status       int
	header       http.Header
	dropped      int // connections
	err          error
}

// mostAtOnce bounds how many requests of a load are under way. Where it is
// reached, the load falls behind and catches up later.
const mostAtOnce = 1000

// startLoad sends requests until the load is ended, at the latest with the
// test.
func startLoad(t *testing.T, url string, perSecond int) *load {
	t.Helper()
	l := newLoad(t, url)
	go l.run(time.Second/time.Duration(perSecond), -1)
	return l
}

// startReloadLoad is startLoad for a Caddy that is being reloaded. The server
// of an old configuration closes connections on which it has not read a request
// yet, with plain reverse_proxy as well; who finds its connection dropped
// before anything was answered asks again.
func startReloadLoad(t *testing.T, url string, perSecond int) *load {
	t.Helper()
	l := newLoad(t, url)
	l.attempts = 10
	go l.run(time.Second/time.Duration(perSecond), -1)
	return l
}

// startBurst sends some requests at once.
func startBurst(t *testing.T, url string, requests int) *load {
	t.Helper()
	l := newLoad(t, url)
	go l.run(0, requests)
	return l
}

func newLoad(t *testing.T, url string) *load {
	l := &load{
		url: url,
		client: &http.Client{
			Transport: &http.Transport{MaxIdleConnsPerHost: mostAtOnce},
			Timeout:   time.Minute,
		},
		attempts: 1,
		stop:     make(chan struct{}),
		ended:    make(chan struct{}),
	}
	t.Cleanup(l.end)
	return l
}

// run sends a request each pause, so many of them; -1: until it is stopped.
func (l *load) run(pause time.Duration, requests int) {
	defer close(l.ended)
	var sending sync.WaitGroup
	defer sending.Wait()
	slots := make(chan struct{}, mostAtOnce)
	began := time.Now()
	for n := 0; n != requests; n++ {
		select {
		case <-time.After(time.Until(began.Add(time.Duration(n) * pause))):
		case <-l.stop:
			return
		}
		slots <- struct{}{}
		a := &loadRequest{began: time.Now(), done: make(chan struct{})}
		l.mu.Lock()
		l.asked = append(l.asked, a)
		l.mu.Unlock()
		sending.Go(func() {
			l.send(a, n)
			<-slots
		})
	}
}

func (l *load) send(a *loadRequest, n int) {
	defer close(a.done)
	resp, err := l.client.Get(l.url + "/" + itoa(n))
	for err != nil && !os.IsTimeout(err) && a.dropped < l.attempts-1 {
		a.dropped++
		resp, err = l.client.Get(l.url + "/" + itoa(n))
	}
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		a.status, a.header = resp.StatusCode, resp.Header
	}
	a.err, a.ended = err, time.Now()
}

// end sends no more, waits for the answers that are due and closes the
// connections.
func (l *load) end() {
	l.once.Do(func() { close(l.stop) })
	<-l.ended
	l.client.CloseIdleConnections()
}

// all returns the requests so far.
func (l *load) all() []*loadRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.asked)
}

// underWay returns the requests that are not answered yet.
func (l *load) underWay() []*loadRequest {
	return slices.DeleteFunc(l.all(), (*loadRequest).answered)
}

func (a *loadRequest) answered() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

func (a *loadRequest) took() time.Duration { return a.ended.Sub(a.began) }

// assertAll wants one status for all of these requests, at least so many.
func assertAll(t *testing.T, what string, asked []*loadRequest, status, least int) {
	t.Helper()
	outcomes := make(map[string]int)
	var wrong *loadRequest
	for _, a := range asked {
		outcome := itoa(a.status)
		if a.err != nil {
			outcome = a.err.Error()
			if _, cause, ok := strings.Cut(outcome, `": `); ok { // without the URL
				outcome = cause
			}
		}
		outcomes[outcome]++
		if wrong == nil && (a.err != nil || a.status != status) {
			wrong = a
		}
	}
	t.Logf("%s: %v, %s", what, outcomes, latencies(asked))
	if wrong != nil {
		t.Errorf("%s: %v, all of them were to be answered %d; the first that was not began at %s and took %v",
			what, outcomes, status, wrong.began.Format("15:04:05.000"), wrong.took())
	}
	if len(asked) < least {
		t.Errorf("%s: only %d requests, which proves too little; there were to be %d", what, len(asked), least)
	}
}

// latencies tells how long answers took.
func latencies(asked []*loadRequest) string {
	at := func(share float64) time.Duration { return quantile(asked, share).Round(100 * time.Microsecond) }
	return fmt.Sprintf("half within %v, 99%% within %v, all within %v", at(.5), at(.99), at(1))
}

// quantile returns the time within which this share was answered.
func quantile(asked []*loadRequest, share float64) time.Duration {
	if len(asked) == 0 {
		return 0
	}
	var took []time.Duration
	for _, a := range asked {
		took = append(took, a.took())
	}
	slices.Sort(took)
	return took[int(share*float64(len(took)-1))]
}

// slowest returns how long the slowest of the requests took that were under
// way at some time between from and to.
func slowest(asked []*loadRequest, from, to time.Time) time.Duration {
	var longest time.Duration
	for _, a := range asked {
		if a.ended.After(from) && a.began.Before(to) {
			longest = max(longest, a.took())
		}
	}
	return longest
}
