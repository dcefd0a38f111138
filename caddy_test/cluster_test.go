package caddy_test

import (
	"crypto/rand"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
	"github.com/caddytoken/inject-token/caddy_test/internal/redisstorage"
)

// clusterPromises hold on every storage.
var clusterPromises = map[string]func(*testing.T, sharedStorage){
	"a start of three nodes is one token request":                        startIsOneTokenRequest,
	"each renewal is one token request":                                  renewalIsOneTokenRequest,
	"a refusal is one token request, and the others adopt at once":       refusalIsOneTokenRequest,
	"a token survives a restart and a kill":                              tokenSurvives,
	"a rotated refresh token survives a restart and a kill":              refreshTokenSurvives,
	"the others go on where one was killed before the provider got it":   killedBeforeTheProviderGotIt,
	"a refresh token that was lost in a kill is replaced by a new grant": lostRefreshToken,
}

func TestClusterOnFiles(t *testing.T) {
	t.Parallel()
	onFiles(t, clusterPromises)
}

func TestClusterOnRedis(t *testing.T) {
	t.Parallel()
	onRedis(t, clusterPromises)
}

// onFiles and onRedis hold each promise on a storage of its own.
func onFiles(t *testing.T, promises map[string]func(*testing.T, sharedStorage)) {
	for name, promise := range promises {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, newSharedFolder(t))
		})
	}
}

func onRedis(t *testing.T, promises map[string]func(*testing.T, sharedStorage)) {
	executable, address := redisstorage.Binary(t), harness.StartRedis(t)
	for name, promise := range promises {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, sharedRedis{address, rand.Text(), executable})
		})
	}
}

func startIsOneTokenRequest(t *testing.T, storage sharedStorage) {
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Delay = 300 * time.Millisecond })
	c := newCluster(t, storage, p, 3, clusterSource{grant: "client_credentials"})
	c.assertServed("after the start", 0, 1, 2)
	c.assertAsked("after the start", 1)
	c.awaitStored(1)
	obtained, adopted := 0, 0
	for _, n := range c.nodes {
		obtained += n.LogCount("token_sources.crm", "token obtained")
		adopted += n.LogCount("token_sources.crm", "token adopted")
	}
	if obtained != 1 || adopted != 2 {
		t.Errorf("the logs say that %d obtained the token and %d adopted it, want one and two", obtained, adopted)
	}
	p.AssertStrict()
}

func renewalIsOneTokenRequest(t *testing.T, storage sharedStorage) {
	const (
		lifetime = 4 * time.Second
		lasts    = 13 * time.Second
	)
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) {
		k.Lifetime, k.Delay, k.Rotate, k.Families = lifetime, 200*time.Millisecond, true, true
	})
	c := newCluster(t, storage, p, 3, clusterSource{grant: "client_credentials"})
	c.assertServed("after the start", 0, 1, 2)
	began := time.Now()
	var loads []*load
	for _, n := range c.nodes {
		loads = append(loads, startLoad(t, n.url, 20))
	}
	time.Sleep(lasts)
	for _, l := range loads {
		l.end()
		assertAll(t, "on a node", l.all(), http.StatusOK, 100)
	}
	took, asked := time.Since(began), p.Count()
	if least, most := int(took/lifetime), 2+int(took/(lifetime*7/10)); asked < least || asked > most {
		t.Errorf("%d token requests in %v, want between %d and %d", asked, took, least, most)
	}
	// Each token request is a token that all have: one counter for all nodes.
	harness.Eventually(t, 20*time.Second, "as many tokens are stored as were asked for", func() bool { return c.record().Counter == p.Count() })
	if p.Reused() > 0 {
		t.Errorf("%d refresh tokens were spent twice", p.Reused())
	}
	p.AssertStrict()
}

func refusalIsOneTokenRequest(t *testing.T, storage sharedStorage) {
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Delay = 300 * time.Millisecond })
	c := newCluster(t, storage, p, 3, clusterSource{grant: "client_credentials"})
	c.assertServed("after the start", 0, 1, 2)
	c.awaitStored(1)

	p.Revoke()
	c.assertServed("with a revoked token, all at once,", 0, 1, 2)
	c.assertAsked("after the first revocation", 2)

	c.awaitStored(2)
	p.Revoke()
	for node := range c.nodes {
		c.assertServed("with a revoked token, one after the other,", node)
	}
	c.assertAsked("after the second revocation", 3)
	p.AssertStrict()
}

func tokenSurvives(t *testing.T, storage sharedStorage) {
	p := provider.New(t, provider.Dialect{})
	c := newCluster(t, storage, p, 2, clusterSource{grant: "client_credentials"})
	c.assertServed("after the start", 0, 1)
	c.awaitStored(1)
	c.nodes[0].Stop()
	c.nodes[1].KillNine()
	for node := range c.nodes {
		c.again(node)
		c.assertServed("started again", node)
	}
	c.assertAsked("in all", 1)
	p.AssertStrict()
}

func refreshTokenSurvives(t *testing.T, storage sharedStorage) {
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Rotate, k.Families = true, true })
	c := newCluster(t, storage, p, 1, clusterSource{grant: "refresh_token\n refresh_token " + p.IssueRefreshToken()})
	c.assertServed("after the start", 0)
	c.awaitStored(1)
	for round, end := range []func(*harness.Caddy){(*harness.Caddy).Stop, (*harness.Caddy).KillNine} {
		end(c.nodes[0].Caddy)
		c.again(0)
		c.assertServed("started again", 0)
		c.assertAsked("after a restart", 1+round)

		// The one of the configuration is spent since the beginning.
		p.Revoke()
		c.assertServed("with a revoked token", 0)
		c.assertAsked("after a revocation", 2+round)
		c.awaitStored(2 + round)
	}
	if p.Reused() > 0 {
		t.Errorf("%d refresh tokens were spent twice", p.Reused())
	}
	p.AssertStrict()
}

// firstAsker lets the n-th token request tell which node sent it.
type firstAsker struct {
	n    int
	once sync.Once
	node chan int
}

func (f *firstAsker) tell(r *http.Request, n int) bool {
	if n != f.n {
		return false
	}
	f.once.Do(func() { f.node <- int(r.Header.Get(nodeHeader)[0] - '0') })
	return true
}

// others returns the nodes of three that are not this one.
func others(node int) (a, b int) { return (node + 1) % 3, (node + 2) % 3 }

func killedBeforeTheProviderGotIt(t *testing.T, storage sharedStorage) {
	p := provider.New(t, provider.Dialect{})
	first := &firstAsker{n: 2, node: make(chan int, 1)}
	p.Set(func(k *provider.Knobs) {
		k.Lifetime, k.Rotate, k.Families = 6*time.Second, true, true
		k.Intercept = func(w http.ResponseWriter, r *http.Request, n int) bool {
			return first.tell(r, n) && hang(w, r, n) // on its way, and lost with its sender
		}
	})
	c := newCluster(t, storage, p, 3, clusterSource{grant: "refresh_token\n refresh_token " + p.IssueRefreshToken(), site: "wait 1m", options: "timeout 2m"})
	c.assertServed("after the start", 0, 1, 2)
	killed := <-first.node
	c.nodes[killed].KillNine()
	a, b := others(killed)
	loads := []*load{startLoad(t, c.nodes[a].url, 10), startLoad(t, c.nodes[b].url, 10)}
	c.awaitStored(2)
	for _, l := range loads {
		l.end()
		assertAll(t, "on another node", l.all(), http.StatusOK, 1)
	}
	c.again(killed)
	c.assertServed("in the end", 0, 1, 2)
	if p.Reused() > 0 || p.RevokedFamilies() > 0 {
		t.Errorf("%d refresh tokens were spent twice, %d families revoked", p.Reused(), p.RevokedFamilies())
	}
	p.AssertStrict()
}

// lostRefreshToken is what no client can exclude: the provider has answered,
// and who asked is dead. The grant itself remains.
func lostRefreshToken(t *testing.T, storage sharedStorage) {
	p := provider.New(t, provider.Dialect{})
	first := &firstAsker{n: 2, node: make(chan int, 1)}
	spent := make(chan struct{})
	p.Set(func(k *provider.Knobs) {
		k.Lifetime, k.Rotate, k.Families = 6*time.Second, true, true
		k.Intercept = func(w http.ResponseWriter, r *http.Request, n int) bool {
			if !first.tell(r, n) {
				return false
			}
			if code := p.Spend(p.Requests()[n-1].Form.Get("refresh_token")); code != "" {
				t.Errorf("the refresh token was not taken: %s", code)
			}
			close(spent)
			return hang(w, r, n)
		}
	})
	c := newCluster(t, storage, p, 3, clusterSource{grant: "client_credentials", site: "wait 1m", options: "timeout 2m"})
	c.assertServed("after the start", 0, 1, 2)
	killed := <-first.node
	<-spent
	c.nodes[killed].KillNine()
	a, b := others(killed)
	loads := []*load{startLoad(t, c.nodes[a].url, 10), startLoad(t, c.nodes[b].url, 10)}
	c.awaitStored(2)
	for _, l := range loads {
		l.end()
		assertAll(t, "on another node", l.all(), http.StatusOK, 1)
	}
	c.again(killed)
	c.assertServed("in the end", 0, 1, 2)
	if p.Reused() > 1 {
		t.Errorf("%d refresh tokens were spent twice, want at most the one that was lost", p.Reused())
	}
	p.AssertStrict()
}

// TestRecordsAreForTheirOwnerOnly looks at the files that hold tokens.
func TestRecordsAreForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	storage := newSharedFolder(t)
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Rotate = true })
	c := newCluster(t, storage, p, 1, clusterSource{grant: "client_credentials"})
	c.awaitStored(1)
	p.Revoke()
	c.assertServed("with a revoked token", 0) // so that a refresh token is spent as well
	c.awaitStored(2)
	files := storage.files("crm", "*")
	if len(files) == 0 {
		t.Fatal("nothing is stored")
	}
	for _, path := range files {
		file, folders := storage.modes(t, path)
		if file != 0o600 {
			t.Errorf("%s has the mode %o", path, file)
		}
		for _, folder := range folders {
			if folder != 0o700 {
				t.Errorf("a folder above %s has the mode %o", path, folder)
			}
		}
	}
}

// encryptionKeys makes keys and returns how a Caddyfile names each.
func encryptionKeys(t *testing.T, n int) (names []string) {
	t.Helper()
	dir := t.TempDir()
	seen := make(map[string]bool)
	for i := range n {
		key := harness.Output(t, dir, "token-source", "keygen")
		if seen[key] {
			t.Fatal("a key was made twice")
		}
		seen[key] = true
		harness.WriteFile(t, dir, itoa(i), key)
		names = append(names, "{file."+dir+"/"+itoa(i)+"}")
	}
	return names
}

// leaked returns the tokens of the provider that stand in the storage.
func leaked(t *testing.T, storage sharedStorage, p *provider.Provider) (tokens []string) {
	t.Helper()
	var all strings.Builder
	for key, value := range storage.entries(t) {
		all.WriteString(key + value)
	}
	for _, token := range p.IssuedTokens() {
		if strings.Contains(all.String(), token) {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

func TestEncryptedTokensAreNotInTheStorage(t *testing.T) {
	t.Parallel()
	keys := encryptionKeys(t, 3)
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Rotate, k.Families = true, true })
	source := func(keys ...string) clusterSource {
		s := clusterSource{grant: "client_credentials"}
		if len(keys) > 0 {
			s.globals = "encryption_key " + strings.Join(keys, " ")
		}
		return s
	}
	c := newCluster(t, newSharedFolder(t), p, 1, source(keys[0]))
	requests := 0
	expect := func(when string, more int) {
		t.Helper()
		requests += more
		c.assertServed(when, 0)
		c.assertAsked(when, requests)
		c.awaitStored(requests)
		if tokens := leaked(t, c.storage, p); len(tokens) > 0 {
			t.Errorf("%s %d tokens stand in the storage", when, len(tokens))
		}
	}
	restart := func(keys ...string) {
		t.Helper()
		c.nodes[0].Stop()
		c.configure(0, source(keys...))
		c.again(0)
	}
	expect("with the first key", 1)
	p.Revoke()
	expect("renewed with the first key", 1)
	restart(keys[0])
	expect("with the first key again", 0)
	restart(keys[1], keys[0])
	expect("with a second key before the first", 0)
	p.Revoke()
	expect("renewed with the second key", 1)
	restart(keys[1])
	expect("with the second key alone", 0)
	if c.entry("unreadable.json") != "" {
		t.Error("an entry was put aside although its key was there")
	}

	before := c.entry("token.json")
	restart(keys[2])
	c.assertServed("with another key", 0)
	requests++
	c.assertAsked("with another key", requests)
	harness.Eventually(t, 20*time.Second, "the entry of the lost key was put aside and replaced", func() bool {
		return c.entry("unreadable.json") == before && c.entry("token.json") != "" && c.entry("token.json") != before
	})
	restart(keys[2])
	c.assertServed("with that key again", 0)
	c.assertAsked("with that key again", requests)
	if tokens := leaked(t, c.storage, p); len(tokens) > 0 {
		t.Errorf("in the end %d tokens stand in the storage", len(tokens))
	}
	p.AssertStrict()
}

// TestARecordInAnothersPlaceIsNotTaken swaps what two sources have stored: who
// can write into the storage must not be able to make one source use another's
// token.
func TestARecordInAnothersPlaceIsNotTaken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	storage := newSharedFolder(t)
	urls := map[string]string{"one": "http://127.0.0.1:" + itoa(harness.Port(t)), "two": "http://127.0.0.1:" + itoa(harness.Port(t))}
	text := "{\n" + clusterGlobals + "\n" + storage.option() + "\ntoken_sources {\nencryption_key " + encryptionKeys(t, 1)[0] + "\n"
	sites := ""
	for name, url := range urls {
		text += "source " + name + " {\ngrant client_credentials\ntoken_url " + p.TokenURL() + "\nclient_id " + provider.ClientID + "\nclient_secret {file.{{dir}}/secret}\n}\n"
		sites += url + " {\nbind 127.0.0.1\ninject_token " + name + " " + p.API + "\n}\n"
	}
	c := harness.Start(t, text+"}\n}\n"+sites, withSecret(provider.ClientSecret))
	used := make(map[string]bool) // tokens
	ask := func(name string) string {
		t.Helper()
		if got := tryToAsk(urls[name]); got.status != http.StatusOK {
			t.Fatalf("%s answered %d %q", name, got.status, got.body)
		}
		return p.LastAPIRequest().Header.Get("Authorization")
	}
	for name := range urls {
		used[ask(name)] = true
		harness.Eventually(t, 20*time.Second, "a token is stored", func() bool { return len(storage.files(name, "token.json")) == 1 })
	}
	c.Stop()
	one, two := storage.files("one", "token.json")[0], storage.files("two", "token.json")[0]
	for _, step := range [][2]string{{one, one + ".x"}, {two, one}, {one + ".x", two}} {
		if err := os.Rename(step[0], step[1]); err != nil {
			t.Fatal(err)
		}
	}
	c.Again()
	for name := range urls {
		if token := ask(name); used[token] {
			t.Errorf("%s used a token from before, which was the other's or lay in its place", name)
		}
		if len(storage.files(name, "unreadable.json")) != 1 {
			t.Errorf("what lay in the place of %s was not put aside", name)
		}
	}
	if n := p.Count(); n != 4 {
		t.Errorf("%d token requests, want two before and two after", n)
	}
}

func TestTokensWithoutAKeyAreInTheStorage(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Rotate = true })
	c := newCluster(t, newSharedFolder(t), p, 1, clusterSource{grant: "client_credentials"})
	c.awaitStored(1)
	// Else the test above would find nothing whatever was stored.
	if tokens := leaked(t, c.storage, p); len(tokens) != 2 {
		t.Errorf("%d tokens stand in the storage, want the access and the refresh token", len(tokens))
	}
}
