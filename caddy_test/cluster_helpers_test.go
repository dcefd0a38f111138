package caddy_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
	"github.com/caddytoken/inject-token/caddy_test/internal/redisstorage"
)

// sharedFolder is a file storage that several Caddys share, seen from outside.
type sharedFolder string

func newSharedFolder(t *testing.T) sharedFolder { return sharedFolder(t.TempDir()) }

// option is the global option for it.
func (f sharedFolder) option() string { return "storage file_system " + string(f) }

// files returns the paths of a source's entries with a name, in which * stands
// for anything.
func (f sharedFolder) files(source, name string) []string {
	paths, err := filepath.Glob(filepath.Join(string(f), "token_sources", source, "*", name))
	if err != nil {
		panic(err)
	}
	return paths
}

// intent is what a node leaves in the storage before it sends a refresh token,
// and takes out again when the answer is stored.
type intent struct {
	Node    string `json:"node"`
	PID     int    `json:"pid"`
	Counter int    `json:"counter"`
}

// intents returns those that are there for a source. One that cannot be read
// has no process id.
func (f sharedFolder) intents(source string) []intent {
	var all []intent
	for _, path := range f.files(source, "intent-*.json") {
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		var i intent
		if err != nil || json.Unmarshal(text, &i) != nil {
			i = intent{}
		}
		all = append(all, i)
	}
	return all
}

// spending says whether a process has told that it spends a refresh token of a
// source. What cannot be read may be its own.
func (f sharedFolder) spending(source string, pid int) bool {
	for _, i := range f.intents(source) {
		if i.PID == pid || i.PID == 0 {
			return true
		}
	}
	return false
}

// entries returns what a storage holds, by its keys.
func (f sharedFolder) entries(t testing.TB) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(string(f), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return ignoreMissing(err)
		}
		text, err := os.ReadFile(path)
		if key, _ := filepath.Rel(string(f), path); err == nil {
			all[filepath.ToSlash(key)] = string(text)
		}
		return ignoreMissing(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (f sharedFolder) options(*testing.T) []harness.Option { return nil }

func (f sharedFolder) start(t *testing.T, text string, options ...harness.Option) *harness.Caddy {
	return harness.Start(t, text, options...)
}

func ignoreMissing(err error) error { // what nodes take away while one looks
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// sharedRedis is a storage on a redis-server that several Caddys share.
type sharedRedis struct{ address, prefix, executable string }

func (r sharedRedis) option() string { return redisstorage.Option(r.address, r.prefix) }

func (r sharedRedis) options(*testing.T) []harness.Option {
	return []harness.Option{harness.Executable(r.executable)}
}

func (r sharedRedis) start(t *testing.T, text string, options ...harness.Option) *harness.Caddy {
	return harness.Start(t, text, append(options, r.options(t)...)...)
}

func (r sharedRedis) entries(t testing.TB) map[string]string {
	t.Helper()
	return redisstorage.Entries(t, r.address, r.prefix)
}

// sharedStorage is what a cluster has in common.
type sharedStorage interface {
	option() string                        // the global option
	options(t *testing.T) []harness.Option // of a Caddy that is started again
	start(t *testing.T, text string, options ...harness.Option) *harness.Caddy
	entries(t testing.TB) map[string]string
}

// tokenRecord is what the storage says of a source's token, where it is not
// encrypted.
type tokenRecord struct {
	Version, Counter int
	Node             string
}

// cluster is some Caddys on one storage, with one source and one site each.
type cluster struct {
	t       *testing.T
	storage sharedStorage
	p       *provider.Provider
	nodes   []*clusterNode
}

type clusterNode struct {
	*harness.Caddy
	url string
}

// clusterSource is what the nodes have in common: a grant and further options.
type clusterSource struct {
	grant    string // with what belongs to it
	options  string // of the source
	site     string // options of inject_token
	globals  string // in token_sources
	tokenURL string // empty: the provider's
}

// newCluster starts so many nodes at once. Each tells its number in a field of
// its token requests.
func newCluster(t *testing.T, storage sharedStorage, p *provider.Provider, nodes int, source clusterSource) *cluster {
	t.Helper()
	c := &cluster{t: t, storage: storage, p: p}
	for range nodes {
		c.nodes = append(c.nodes, &clusterNode{url: "http://127.0.0.1:" + itoa(harness.Port(t))})
	}
	var starting sync.WaitGroup
	for i := range c.nodes {
		starting.Go(func() {
			c.nodes[i].Caddy = storage.start(t, c.caddyfile(i, source), withSecret(provider.ClientSecret))
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return c
}

// clusterGlobals are {{globals}} without a certificate authority, which Caddys
// that start at once on an empty storage would make in each other's way.
const clusterGlobals = `admin {{admin}}
	auto_https off
	debug
	grace_period 30s`

// caddyfile is the configuration of a node.
func (c *cluster) caddyfile(node int, source clusterSource) string {
	return fmt.Sprintf(`{
	%s
	%s
	token_sources {
		%s
		source crm {
			grant %s
			token_url %s
			client_id %s
			client_secret {file.{{dir}}/secret}
			token_request POST form {
				header %s %d
			}
			%s
		}
	}
}
%s {
	bind 127.0.0.1
	inject_token crm %s {
		%s
	}
}
`, clusterGlobals, c.storage.option(), source.globals, source.grant, cmp.Or(source.tokenURL, c.p.TokenURL()), provider.ClientID, nodeHeader, node, source.options, c.nodes[node].url, c.p.API, source.site)
}

// configure writes another configuration for a node that is started again.
func (c *cluster) configure(node int, source clusterSource) {
	c.nodes[node].Write("Caddyfile", c.nodes[node].Expand(c.caddyfile(node, source)))
}

// again starts a node once more that has ended.
func (c *cluster) again(node int) {
	c.t.Helper()
	c.nodes[node].Caddy = c.nodes[node].Again(c.storage.options(c.t)...)
}

// assertServed asks nodes, all at once, and wants the API's answer from each.
func (c *cluster) assertServed(when string, nodes ...int) {
	c.t.Helper()
	answers := make([]answered, len(nodes))
	var asking sync.WaitGroup
	for i, node := range nodes {
		asking.Go(func() { answers[i] = tryToAsk(c.nodes[node].url + "/x") })
	}
	asking.Wait()
	for i, got := range answers {
		if got.status != 200 || got.body != "hello GET /x" {
			c.t.Errorf("%s node %d answered %d %q", when, nodes[i], got.status, got.body)
		}
	}
}

// assertAsked wants so many token requests until now.
func (c *cluster) assertAsked(when string, want int) {
	c.t.Helper()
	if got := c.p.Count(); got != want {
		var by []string
		for _, r := range c.p.Requests() {
			by = append(by, fmt.Sprintf("%s by node %s: %s", r.At.Format("15:04:05.000"), r.Header.Get(nodeHeader), r.Form.Get("grant_type")))
		}
		c.t.Errorf("%s there were %d token requests, want %d:\n%s", when, got, want, strings.Join(by, "\n"))
	}
}

// entry returns the one entry of the source that has a name, or "".
func (c *cluster) entry(name string) string {
	c.t.Helper()
	for key, value := range c.storage.entries(c.t) {
		if strings.HasPrefix(key, "token_sources/crm/") && strings.HasSuffix(key, "/"+name) {
			return value
		}
	}
	return ""
}

// record returns what is stored; the zero record if there is nothing.
func (c *cluster) record() (r tokenRecord) {
	c.t.Helper()
	if text := c.entry("token.json"); text != "" {
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			c.t.Fatalf("the record is not JSON: %v", err)
		}
	}
	return r
}

// awaitStored waits until a token of so high a counter is in the storage.
func (c *cluster) awaitStored(counter int) {
	c.t.Helper()
	harness.Eventually(c.t, time.Minute, fmt.Sprintf("token %d is stored", counter), func() bool { return c.record().Counter >= counter })
}

// mode returns the permissions of a file, and those of the folders above it in
// the storage.
func (f sharedFolder) modes(t *testing.T, path string) (file fs.FileMode, folders []fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(path); dir != string(f); dir = filepath.Dir(dir) {
		folder, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		folders = append(folders, folder.Mode().Perm())
	}
	return info.Mode().Perm(), folders
}
