package caddy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

const (
	chaosLifetime    = 3 * time.Second
	chaosPerSecond   = 100
	defaultRefreshAt = 80
)

// TestChaos holds a cluster of three to the promise that no request fails that
// could have succeeded. Nodes are killed, frozen, reloaded and stopped, and
// access tokens are revoked, while two sources are in use:
//
//   - a is client_credentials with a rotating refresh token, at our own
//     provider: where a refresh token is lost, the grant remains.
//   - b is refresh_token alone, at oidc-provider: one that is spent twice ends
//     everything. It is not struck while it spends one, see standStill.
//
// CHAOS_DURATION (60s) says how long, CHAOS_SEED repeats a run as far as
// processes can be repeated.
//
// A control without a token says when the machine itself stood still. Nothing
// is concluded from such a moment, and where there was little else, all is done
// once more.
func TestChaos(t *testing.T) {
	lasts, seed := chaosSettings(t)
	for round := 1; ; round++ {
		if round == 4 {
			t.Fatal("the machine stood still so often that nothing was proved")
		}
		var proved bool
		t.Run("round "+itoa(round), func(t *testing.T) { proved = chaos(t, lasts, seed) })
		if proved || t.Failed() {
			return
		}
	}
}

// chaos returns false where it proved too little.
func chaos(t *testing.T, lasts time.Duration, seed uint64) (proved bool) {
	t.Logf("CHAOS_SEED=%d CHAOS_DURATION=%v", seed, lasts)
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Lifetime, k.Rotate, k.Families = chaosLifetime, true, true })
	oidc := "http://" + harness.StartNodeServer(t, "oidc", "AT_TTL="+itoa(int(chaosLifetime.Seconds())))
	c := &chaosCluster{t: t, began: time.Now(), storage: newSharedFolder(t), gates: map[string]*chaosGate{
		"a": newChaosGate(t, p.TokenURL(), seed),
		"b": newChaosGate(t, oidc+"/token", seed+1),
	}}
	api := newChaosAPI(t, p, oidc)
	startChaosNodes(t, c, api.URL, seedRefreshToken(t, oidc))
	defer c.thaw()

	callers := newChaosCallers(c, seed)
	callers.awaitAll(t, "at the beginning")
	end := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { callers.run(chaosPerSecond, end) })
	running.Go(func() { callers.control(end) })
	running.Go(func() {
		for {
			select {
			case <-time.After(12 * time.Second):
			case <-end:
				return
			}
			api.revoke()
			c.event("", "all access tokens were revoked", "")
		}
	})
	running.Go(func() { strike(c, rand.New(rand.NewPCG(seed, 3)), end) })
	time.Sleep(lasts)
	close(end)
	running.Wait()

	callers.awaitAll(t, "in the end")
	report, stood := chaosReport(t, c, callers, p, oidc)
	t.Log(report)
	if asked, least := callers.asked["a"]+callers.asked["b"], int(lasts.Seconds()*chaosPerSecond*.8); asked < least {
		t.Errorf("only %d requests, which proves too little; there were to be %d", asked, least)
	}
	p.AssertStrict()
	return stood <= time.Duration(mostStalls*float64(lasts))
}

// chaosSettings reads the environment.
func chaosSettings(t *testing.T) (lasts time.Duration, seed uint64) {
	t.Helper()
	lasts, seed = time.Minute, rand.Uint64()
	var err error
	if text := os.Getenv("CHAOS_DURATION"); text != "" {
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv("CHAOS_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return lasts, seed
}

// strike does something to a node every few seconds until the end, and
// returns when all nodes are up again.
func strike(c *chaosCluster, random *rand.Rand, end <-chan struct{}) {
	var striking sync.WaitGroup
	defer striking.Wait()
	between := func(from, to time.Duration) time.Duration {
		return from + time.Duration(random.Int64N(int64(to-from)))
	}
	// Each is done before any is done again, in an order of its own.
	var actions []int
	for {
		select {
		case <-time.After(between(2*time.Second, 4*time.Second)):
		case <-end:
			return
		}
		if len(actions) == 0 {
			actions = random.Perm(4)
		}
		action := actions[0]
		n := c.take(random.IntN, action != 3)
		if n == nil {
			continue
		}
		actions = actions[1:]
		pause := between(0, 2*time.Second)
		var do func()
		switch action {
		case 0:
			do = func() { c.kill(n, pause) }
		case 1:
			pause = between(time.Second, 25*time.Second)
			do = func() { c.freeze(n, pause, end) }
		case 2:
			do = func() { c.stop(n, pause) }
		case 3:
			refreshAt := defaultRefreshAt
			if random.IntN(3) == 0 {
				refreshAt = 60 + random.IntN(25)
			}
			do = func() { c.reload(n, refreshAt) }
		}
		striking.Go(func() {
			defer c.give(n)
			do()
		})
	}
}

// chaosAPI is the API of both sources. It asks the providers about each token.
type chaosAPI struct {
	*httptest.Server
	t          *testing.T
	oidc       string
	a          *provider.Provider
	introspect *http.Client

	mu     sync.Mutex           // guards what follows
	seen   map[string]bool      // tokens, revoked or not
	active map[string]time.Time // tokens of b, and until when that is believed
}

func newChaosAPI(t *testing.T, a *provider.Provider, oidc string) *chaosAPI {
	api := &chaosAPI{t: t, oidc: oidc, a: a, seen: make(map[string]bool), active: make(map[string]time.Time),
		introspect: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}}
	api.Server = httptest.NewServer(api)
	t.Cleanup(api.Close)
	return api
}

// revoke ends every access token that was used so far. One that is still on its
// way to a node is not among them: a request that was refused, and is refused
// again with a token that was obtained since, is to be answered with that.
func (api *chaosAPI) revoke() {
	api.mu.Lock()
	defer api.mu.Unlock()
	for token := range api.seen {
		api.seen[token] = true
	}
}

func (api *chaosAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	source, _, of := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if !of {
		return // the control
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if why := api.refuses(source, token); why != "" {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		http.Error(w, "refused: "+why, http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(w, "hello %s", r.URL.Path)
}

// refuses returns why a token is refused, or "".
func (api *chaosAPI) refuses(source, token string) (why string) {
	api.mu.Lock()
	revoked := api.seen[token]
	api.seen[token] = revoked
	believed := time.Now().Before(api.active[token])
	api.mu.Unlock()
	switch {
	case revoked:
		return "revoked"
	case source == "a" && !api.a.Valid(token):
		return "not valid"
	case source == "a" || believed:
		return ""
	}
	req, err := http.NewRequest(http.MethodPost, api.oidc+"/token/introspection", strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(provider.ClientID, provider.ClientSecret)
	resp, err := api.introspect.Do(req)
	if err != nil {
		api.t.Error(err)
		return err.Error()
	}
	defer resp.Body.Close()
	var answer struct{ Active bool }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || !answer.Active {
		return "not active"
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	api.active[token] = time.Now().Add(50 * time.Millisecond)
	return ""
}

// seedRefreshToken returns a refresh token as a person would have got it from
// oidc-provider.
func seedRefreshToken(t *testing.T, oidc string) string {
	t.Helper()
	resp, err := http.Post(oidc+"/seed", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"refresh_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatalf("no refresh token: %v", err)
	}
	return answer.Token
}

// oidcStats is what oidc-provider has counted.
type oidcStats struct {
	TokenRequests, Reused, FamiliesRevoked, InvalidGrant int
}

func statsOf(t *testing.T, oidc string) (stats oidcStats) {
	t.Helper()
	_, text := harness.Get(t, oidc+"/stats")
	if err := json.Unmarshal([]byte(text), &stats); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return stats
}

func startChaosNodes(t *testing.T, c *chaosCluster, api, refreshToken string) {
	t.Helper()
	dir := t.TempDir()
	harness.WriteFile(t, dir, "secret", provider.ClientSecret)
	harness.WriteFile(t, dir, "refresh-token", refreshToken)
	for _, name := range []string{"n0", "n1", "n2"} {
		n := &chaosNode{name: name, url: "http://127.0.0.1:" + itoa(harness.Port(t))}
		n.text = func(version, refreshAt int) string {
			source := func(source, grant string) string {
				return fmt.Sprintf(`source %s {
			%s
			token_url %s/token
			client_id %s
			client_secret {file.%s}
			token_request POST form {
				header %s %s
			}
			refresh_at %d%%
		}`, source, grant, c.gates[source].URL, provider.ClientID, filepath.Join(dir, "secret"), nodeHeader, name, refreshAt)
			}
			return fmt.Sprintf(`{
	%s
	log {
		level INFO
	}
	%s
	token_sources {
		%s
		%s
	}
}
%s {
	bind 127.0.0.1
	header X-Version %d
	handle /a/* {
		inject_token a %s
	}
	handle /b/* {
		inject_token b %s
	}
	handle {
		reverse_proxy %s
	}
}
`, clusterGlobals, c.storage.option(), source("a", "grant client_credentials"),
				source("b", "grant refresh_token\n refresh_token {file."+filepath.Join(dir, "refresh-token")+"}"), n.url, version, api, api, api)
		}
		c.live(n, harness.Start(t, n.text(0, defaultRefreshAt)))
		c.nodes = append(c.nodes, n)
	}
}

// chaosReport judges what happened, and tells it, and for how long the machine
// stood still.
func chaosReport(t *testing.T, c *chaosCluster, callers *chaosCallers, p *provider.Provider, oidc string) (report string, stood time.Duration) {
	t.Helper()
	callers.mu.Lock()
	defer callers.mu.Unlock()
	for _, problem := range c.problems {
		t.Error(problem)
	}
	stats := statsOf(t, oidc)
	families := map[string]int{"a": p.RevokedFamilies(), "b": stats.FamiliesRevoked}
	if stats.Reused > 0 || stats.FamiliesRevoked > 0 {
		t.Errorf("oidc-provider counts %d refresh tokens that were spent twice, and %d families revoked", stats.Reused, stats.FamiliesRevoked)
	}
	var text strings.Builder
	for _, source := range []string{"a", "b"} {
		asked, failed := c.gates[source].counts()
		twice := c.gates[source].spentTwice()
		failures := slices.DeleteFunc(slices.Clone(callers.failures[source]), callers.stalled)
		fmt.Fprintf(&text, "\n%s: %d requests, %d failed (and %d on nodes that were killed or frozen, %d while the machine stood still), %d were not taken by a node that stopped or reloaded, the slowest of the others took %v;\n"+
			"   %d token requests (%d failed by chance), %d refresh tokens spent twice, %d families revoked", source, callers.asked[source], len(failures),
			callers.excused[source], len(callers.failures[source])-len(failures), callers.moved[source], callers.slowest[source].Round(time.Millisecond), asked, failed, len(twice), families[source])
		for _, spends := range twice {
			causes := c.causes(spends)
			var by []string
			for _, s := range spends {
				by = append(by, s.node+" at "+c.since(s.at))
			}
			line := fmt.Sprintf("a refresh token of %s was spent by %s; cause: %s", source, strings.Join(by, ", "), strings.Join(causes, "; "))
			fmt.Fprintf(&text, "\n   %s", line)
			if source == "b" || len(causes) == 0 {
				t.Errorf("%s; lately:\n\t\t%s", line, c.told(spends[len(spends)-1].at, 30*time.Second))
			}
		}
		for i, line := range callers.tell(failures) {
			if i == 20 {
				t.Error("…")
				break
			}
			t.Error(line)
		}
	}
	done := make(map[string]int)
	for _, e := range c.events {
		for _, what := range []string{"killed", "frozen", "stopped", "reloaded", "revoked"} {
			if strings.Contains(e.what, what) {
				done[what]++
			}
		}
	}
	fmt.Fprintf(&text, "\nkilled %d, frozen %d, stopped %d, reloaded %d; all access tokens revoked %d times; a kill or freeze was put off %d times for b",
		done["killed"], done["frozen"], done["stopped"], done["reloaded"], done["revoked"], c.withheld)
	for _, what := range []string{"killed", "frozen", "stopped", "reloaded", "revoked"} {
		if done[what] == 0 {
			t.Errorf("nothing was %s", what)
		}
	}
	stood = callers.stood()
	fmt.Fprintf(&text, "\nthe machine stood still for %v", stood.Round(100*time.Millisecond))
	if t.Failed() {
		t.Log("what the nodes say of their tokens:\n" + c.logs())
	}
	return text.String(), stood
}
