package caddy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// shapesRun is one Caddy before many providers.
type shapesRun struct {
	*harness.Caddy
	*emulator
	t       *testing.T
	address string
}

// writtenShape is a provider, and what a user writes for it.
type writtenShape struct {
	*shape
	text func(provider string) string
	seed bool // whether it names a file with a refresh token
}

// writtenFor is a provider for which the right thing is written.
func writtenFor(s *shape) writtenShape {
	return writtenShape{s, func(provider string) string { return s.source(provider) }, s.of["grant"] == "refresh_token"}
}

// startShapes runs Caddy with a source for each provider, and one site.
func startShapes(t *testing.T, all []writtenShape, site func(api string) string) *shapesRun {
	t.Helper()
	begun := time.Now()
	all = append(all, writtenFor(partnerShape))
	e := newEmulator(t, all)
	var sources strings.Builder
	options := []harness.Option{
		harness.Env("SHAPE_CLIENT="+shapeClient, "SHAPE_USER="+shapeUser, "SHAPE_PROVIDER="+e.provider, "SHAPE_ACTOR="+shapeActor),
	}
	for name, key := range shapeSigners() {
		options = append(options, harness.File("private-"+name, key.text))
	}
	for name, secret := range shapeFiles {
		options = append(options, harness.File(name, secret+"\n"))
	}
	for _, s := range all {
		sources.WriteString(s.text(e.provider))
		if s.seed {
			options = append(options, harness.File("seed-"+s.name, s.shape.seed()+"\n"))
		}
	}
	text, address := caddyfile(t, sources.String(), site(e.api))
	r := &shapesRun{harness.Start(t, text, options...), e, t, address}
	t.Logf("Caddy serves %d of them after %v", len(all), time.Since(begun).Round(time.Millisecond))
	return r
}

// each does something for many at once, and reports what came of it.
func (r *shapesRun) each(shapes []*shape, what string, do func(*shape) error) {
	r.t.Helper()
	begun := time.Now()
	defer func() { r.t.Logf("%s: %d shapes, %v", what, len(shapes), time.Since(begun).Round(time.Millisecond)) }()
	var wg sync.WaitGroup
	places := make(chan struct{}, 16)
	for _, s := range shapes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			places <- struct{}{}
			defer func() { <-places }()
			if err := do(s); err != nil {
				x := r.look(s.name)
				r.t.Errorf("%s: %v: %v\n  token requests refused: %q\n  requests refused by the API: %q\n  the log: %s", what, s, err, x.faults, x.refused, r.logOf(s))
			}
		}()
	}
	wg.Wait()
}

// logOf returns what the source of a shape has logged.
func (r *shapesRun) logOf(s *shape) string {
	var lines []string
	for line := range strings.SplitSeq(r.Log(), "\n") {
		if strings.Contains(line, `"token_sources.`+s.name+`"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n    ")
}

// get is a caller's request. The status is all that most want to know.
func (r *shapesRun) get(s *shape) (*http.Response, error) {
	req, err := callerRequest(r.address, s.name)
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	return resp, resp.Body.Close()
}

// served has a caller ask until there is an answer of the API by the n-th token or
// a later one. A machine that is overloaded may take its time; a provider that
// refuses anything is no reason to wait.
func (r *shapesRun) served(s *shape, n int) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := r.get(s)
		if err != nil {
			return err
		}
		x := r.look(s.name)
		switch {
		case resp.StatusCode == http.StatusOK && x.last >= n:
			return nil
		case time.Now().After(end), len(x.faults) > 0:
			return fmt.Errorf("answered %d by token %d, Proxy-Status %q", resp.StatusCode, x.last, resp.Header.Get("Proxy-Status"))
		}
	}
}

// shapeStatus is what the admin API says of a source.
type shapeStatus struct {
	Name, State                  string
	Issued, Expires, NextRenewal time.Time
}

func (r *shapesRun) statuses() map[string]shapeStatus {
	var list []struct {
		Name        string    `json:"name"`
		State       string    `json:"state"`
		Issued      time.Time `json:"issued"`
		Expires     time.Time `json:"expires"`
		NextRenewal time.Time `json:"next_renewal"`
	}
	if text := r.AdminGet("/token_sources/"); json.Unmarshal([]byte(text), &list) != nil {
		r.t.Fatalf("the admin API says %.300s", text)
	}
	all := make(map[string]shapeStatus)
	for _, s := range list {
		all[s.Name] = shapeStatus(s)
	}
	return all
}

// lives says whether the scheduled life of the n-th token is what its answer says.
func (s *shape) lives(n int, status shapeStatus) error {
	want := s.lifetime(n)
	switch {
	case status.State != "fresh":
		return fmt.Errorf("the state is %s", status.State)
	case want == 0 && (!status.Expires.IsZero() || !status.NextRenewal.IsZero()):
		return fmt.Errorf("expires %v, next renewal %v; want never", status.Expires, status.NextRenewal)
	case want == 0:
		return nil
	}
	if got := status.Expires.Sub(status.Issued); (got - want).Abs() > time.Millisecond {
		return fmt.Errorf("the lifetime is %v, want %v", got, want)
	}
	// A random tenth less, and up to a fifth of the lifetime for a slow provider.
	at := status.NextRenewal.Sub(status.Issued).Seconds() / want.Seconds()
	if at > s.share()+0.001 || at < s.share()*0.9-0.2 {
		return fmt.Errorf("the next renewal is after %.3f of the lifetime, want %.1f", at, s.share())
	}
	return nil
}

// hundreds is held by who runs hundreds of sources at once.
var hundreds sync.Mutex

// TestAHundredShapesOfProviders has every value of every axis meet every other,
// before a provider that takes nothing else.
func TestAHundredShapesOfProviders(t *testing.T) {
	t.Parallel()
	shapes := hundredShapes()
	if len(shapes) < 100 {
		t.Errorf("%d shapes are less than a hundred", len(shapes))
	}
	t.Logf("%d shapes, %d pairs", len(shapes), len(shapeSpace().pairs()))
	by := make(map[string][]*shape)
	for _, s := range shapes {
		by[s.of["trigger"]] = append(by[s.of["trigger"]], s)
	}
	hundreds.Lock()
	t.Cleanup(hundreds.Unlock)
	var right []writtenShape
	for _, s := range shapes {
		right = append(right, writtenFor(s))
	}
	r := startShapes(t, right, func(api string) string { return sites(shapes, api) })
	r.each(by["clock"], "the first token, which ends soon", func(s *shape) error {
		close(r.shapes[s.name].open)
		return r.served(s, 1)
	})
	r.each(append(by["refusal"], by["operator"]...), "the first token", func(s *shape) error { return r.served(s, 1) })
	now := r.statuses()
	r.each(append(by["refusal"], by["operator"]...), "the first token's life", func(s *shape) error { return s.lives(1, now[s.name]) })

	r.each(by["refusal"], "a renewal where the API refuses", func(s *shape) error {
		r.revoke(s.name)
		return r.served(s, 2)
	})
	r.each(by["operator"], "a renewal by an operator", func(s *shape) error {
		resp, err := http.Post("http://"+r.Admin+"/token_sources/"+s.name+"/refresh", "", nil)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("the admin API answered %d", resp.StatusCode)
		}
		if err == nil {
			resp.Body.Close()
			err = r.served(s, 2)
		}
		return err
	})
	r.each(by["clock"], "a renewal in time", func(s *shape) error {
		for end := time.Now().Add(30 * time.Second); len(r.look(s.name).issued) < 2; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("it did not come within %v", soonLifetime)
			}
		}
		at := r.look(s.name).at
		// When exactly, the second token's schedule says. A process that got no time to
		// run takes the answer to be older than it is.
		if after := at[1].Sub(at[0]); after > 2*soonLifetime || after < soonLifetime/10 {
			return fmt.Errorf("it came after %v", after)
		}
		return r.served(s, 2)
	})

	now = r.statuses()
	r.each(shapes, "the second token", func(s *shape) error {
		x := r.look(s.name)
		if x.begun > 0 {
			t.Logf("%s has begun again %d times, for a storage that did not answer", s.name, x.begun)
		}
		switch {
		case len(x.issued) != 2 && s.of["expiry"] != "default":
			return fmt.Errorf("%d tokens were issued", len(x.issued))
		case len(x.faults) > 0:
			return fmt.Errorf("a token request was refused")
		case x.first != 1:
			return fmt.Errorf("the first request came with token %d", x.first)
		}
		return s.lives(2, now[s.name])
	})
}
