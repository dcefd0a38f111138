package caddy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// ownGate is an API that takes the tokens of one client alone, and remembers
// those of others.
type ownGate struct {
	gate
	mu      sync.Mutex // guards strange
	strange []string   // owners of other tokens that came
}

func newOwnGate(i *issuer, client string) *ownGate {
	g := new(ownGate)
	g.valid = func(token string) bool {
		if owner := i.owner(token); owner != client {
			g.mu.Lock()
			g.strange = append(g.strange, owner)
			g.mu.Unlock()
			return false
		}
		return i.valid(token)
	}
	g.next = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, client) }
	return g
}

// strangers returns whose tokens came beside the right ones. "" is a request
// without a token.
func (g *ownGate) strangers() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.strange)
}

// TestEachUpstreamOfAPoolGetsItsOwnToken has two upstreams, each of which knows
// the tokens of another source.
func TestEachUpstreamOfAPoolGetsItsOwnToken(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"the transport", "the directive"} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t)
			one, two := newOwnGate(i, "one"), newOwnGate(i, "two")
			a, b := serve(t, one), serve(t, two)
			site := fmt.Sprintf("reverse_proxy %s %s {\n lb_policy round_robin\n transport inject_token one {\n upstream_source %[2]s two\n}\n}", a, b)
			if form == "the directive" {
				site = fmt.Sprintf("inject_token one %s %s {\n lb_policy round_robin\n upstream_source %[2]s two\n}", a, b)
			}
			text, url := caddyfile(t, i.source("one")+i.source("two"), "log\n"+site)
			c := harness.Start(t, text, withSecret(provider.ClientSecret))
			answers := make(map[string]int)
			ask := func() {
				t.Helper()
				resp, body := harness.Get(t, url+"/x")
				if resp.StatusCode != http.StatusOK {
					t.Errorf("answered %d %.100q", resp.StatusCode, body)
				}
				answers[body]++
			}
			for range 10 {
				ask()
			}
			if answers["one"] != 5 || answers["two"] != 5 {
				t.Errorf("the answers are %v", answers)
			}
			// A refusal at one of them is no business of the other's token.
			i.revoke("two")
			for range 10 {
				ask()
			}
			if answers["one"] != 10 || answers["two"] != 10 {
				t.Errorf("after a revocation the answers are %v", answers)
			}
			if one, two := i.count("one"), i.count("two"); one != 1 || two != 2 {
				t.Errorf("%d token requests of the one source, want 1, and %d of the other, want 2", one, two)
			}
			if got := append(one.strangers(), two.strangers()...); len(got) != 0 {
				t.Errorf("there came the tokens of %q", got)
			}
			c.Eventually(20*time.Second, "the access log has all requests", func() bool { return len(outcomes(c)) == 20 })
			counted := make(map[string]int)
			for _, outcome := range outcomes(c) {
				counted[outcome]++
			}
			if counted["one injected"] != 10 || counted["two injected"] != 9 || counted["two replayed"] != 1 {
				t.Errorf("the access log says %v", counted)
			}
		})
	}
}

// TestHealthChecksCarryTheTokenOfTheirUpstream has upstreams that are healthy to
// those who have the right token.
func TestHealthChecksCarryTheTokenOfTheirUpstream(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	one, two := newOwnGate(i, "one"), newOwnGate(i, "two")
	a, b := serve(t, one), serve(t, two)
	text, url := caddyfile(t, i.source("one")+i.source("two"), fmt.Sprintf(`reverse_proxy %s %s {
		lb_policy round_robin
		health_uri /health
		health_interval 100ms
		transport inject_token one {
			upstream_source %[2]s two
		}
	}`, a, b))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	checked := func(g *ownGate) int { _, passed := g.attempts("/health"); return passed }
	c.Eventually(20*time.Second, "both were found healthy", func() bool { return checked(one) >= 3 && checked(two) >= 3 })
	answers := make(map[string]int)
	for range 10 {
		_, body := harness.Get(t, url)
		answers[body]++
	}
	if answers["one"] != 5 || answers["two"] != 5 {
		t.Errorf("the answers are %v", answers)
	}
	// A health check that is refused renews the token as a request does.
	i.revoke()
	c.Eventually(20*time.Second, "the tokens were renewed", func() bool { return i.count("one") == 2 && i.count("two") == 2 })
	for g, name := range map[*ownGate]string{one: "one", two: "two"} {
		before := checked(g)
		c.Eventually(20*time.Second, name+" is healthy again", func() bool { return checked(g) >= before+3 })
		// Before there is the first token a check comes without one.
		for _, owner := range g.strangers() {
			if owner != "" {
				t.Errorf("a token of %s came to the upstream of %s", owner, name)
			}
		}
	}
}

// TestARetryOnAnotherUpstreamCarriesThatOnesToken has an upstream that takes no
// connections and one that breaks them, each with a source of its own.
func TestARetryOnAnotherUpstreamCarriesThatOnesToken(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	healthy := newOwnGate(i, "healthy")
	var came sync.Map
	broken := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		came.Store(i.owner(bearerOf(r)), true)
		panic(http.ErrAbortHandler)
	}))
	well, closed := serve(t, healthy), "127.0.0.1:"+itoa(harness.Port(t))
	text, url := caddyfile(t, i.source("closed")+i.source("broken")+i.source("healthy"), fmt.Sprintf(`reverse_proxy %s %s %s {
		lb_policy round_robin
		lb_retries 2
		transport inject_token closed {
			upstream_source %[2]s broken
			upstream_source %[3]s healthy
		}
	}`, closed, broken, well))
	harness.Start(t, text, withSecret(provider.ClientSecret))
	for n := range 12 {
		if n == 6 {
			i.revoke("healthy")
		}
		if resp, body := harness.Get(t, url); resp.StatusCode != http.StatusOK || body != "healthy" {
			t.Errorf("request %d was answered %d %.100q", n, resp.StatusCode, body)
		}
	}
	if got := healthy.strangers(); len(got) != 0 {
		t.Errorf("to the healthy one came the tokens of %q", got)
	}
	owners := 0
	came.Range(func(owner, _ any) bool {
		owners++
		if owner != "broken" {
			t.Errorf("to the broken one came a token of %v", owner)
		}
		return true
	})
	if owners == 0 {
		t.Error("no request came to the broken upstream")
	}
	if n := i.count("healthy"); n != 2 {
		t.Errorf("%d token requests of the healthy upstream's source, want 2", n)
	}
}

// TestAWrongUpstreamSourceIsFoundAtLoad wants the error to say what there is.
func TestAWrongUpstreamSourceIsFoundAtLoad(t *testing.T) {
	t.Parallel()
	const upstreams = "127.0.0.1:9001 127.0.0.1:9002"
	for name, k := range map[string]struct {
		options string
		says    []string
	}{
		"an upstream that there is not": {"upstream_source 127.0.0.1:9003 two", []string{"127.0.0.1:9003", "127.0.0.1:9001", "127.0.0.1:9002"}},
		"no port":                       {"upstream_source 127.0.0.1 two", []string{"127.0.0.1", "HOST:PORT"}},
		"a source that there is not":    {"upstream_source 127.0.0.1:9002 erp", []string{"erp", "one", "two"}},
		"twice":                         {"upstream_source 127.0.0.1:9002 two\n upstream_source 127.0.0.1:9002 one", []string{"upstream_source", "127.0.0.1:9002"}},
		"no source":                     {"upstream_source 127.0.0.1:9002", []string{"upstream_source"}},
	} {
		for form, site := range map[string]string{
			"the transport": "reverse_proxy " + upstreams + " {\n transport inject_token one {\n" + k.options + "\n}\n}",
			"the directive": "inject_token one " + upstreams + " {\n" + k.options + "\n}",
		} {
			t.Run(name+", "+form, func(t *testing.T) {
				i := newIssuer(t)
				text, _ := caddyfile(t, i.source("one")+i.source("two"), site)
				out, code := validate(t, text)
				if code == 0 {
					t.Fatal("the configuration is taken")
				}
				out = out[max(0, strings.LastIndex(out, "Error:")):]
				for _, word := range k.says {
					if !strings.Contains(out, word) {
						t.Errorf("the error does not say %s: %s", word, out)
					}
				}
			})
		}
	}
}

// validate runs caddy validate.
func validate(t *testing.T, text string) (output string, code int) {
	t.Helper()
	dir := t.TempDir()
	harness.WriteFile(t, dir, "secret", provider.ClientSecret)
	harness.WriteFile(t, dir, "Caddyfile", strings.NewReplacer("{{globals}}", "", "{{dir}}", dir).Replace(text))
	return harness.Run(t, dir, "validate", "--config", "Caddyfile")
}

// TestAThousandTenantsNeverGetEachOthersTokens has one line serve them all. In
// the middle of it tokens are revoked and the configuration is reloaded. It is not
// parallel: a thousand first tokens at once would hold up the tests beside it.
func TestAThousandTenantsNeverGetEachOthersTokens(t *testing.T) {
	const tenants, callers, perTenant = 1000, 8, 5
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	i := newIssuer(t)
	api := &gate{valid: i.valid, next: func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s to %s", body, i.owner(bearerOf(r)))
	}}
	address := serve(t, api)
	var sources strings.Builder
	for n := range tenants {
		// A thousand ask at once: that may take a while.
		sources.WriteString(i.source("tenant-"+itoa(n), "timeout 60s"))
	}
	text, url := caddyfile(t, sources.String(), "inject_token tenant-{header.X-Tenant} "+address+" {\n sources tenant-*\n}")
	text = strings.Replace(text, "{{globals}}", "{{globals}}\n log {\n level INFO\n}", 1)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	c.Eventually(2*time.Minute, "each tenant has a token", func() bool {
		for n := range tenants {
			if i.token("tenant-"+itoa(n)) == "" {
				return false
			}
		}
		return true
	})

	// Each tenant asks several times, all in random order.
	random := rand.New(rand.NewPCG(seed, 0))
	order := make([]int, 0, tenants*perTenant)
	for range perTenant {
		order = append(order, random.Perm(tenants)...)
	}
	revoked := make(map[string]bool)
	for range tenants / 5 {
		revoked["tenant-"+itoa(random.IntN(tenants))] = true
	}
	var next, wrong atomic.Int64
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	ask := func(at int) error {
		tenant := itoa(order[at])
		text := "request " + itoa(at) + " of " + tenant
		want := text + " to tenant-" + tenant
		var err error
		for range 5 { // a reload closes connections on which nothing was read yet
			var req *http.Request
			if at%2 == 0 {
				req, err = http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(text))
			} else { // chunked
				req, err = http.NewRequestWithContext(t.Context(), http.MethodPost, url, io.MultiReader(strings.NewReader(text)))
			}
			if err != nil {
				return err
			}
			req.Header.Set("X-Tenant", tenant)
			var resp *http.Response
			if resp, err = client.Do(req); err != nil {
				continue
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK || string(body) != want {
				return fmt.Errorf("request %d of tenant %s was answered %d %.200q, want %q", at, tenant, resp.StatusCode, body, want)
			}
			return nil
		}
		return err
	}
	var asking sync.WaitGroup
	for range callers {
		asking.Go(func() {
			for at := int(next.Add(1)) - 1; at < len(order); at = int(next.Add(1)) - 1 {
				if err := ask(at); err != nil && wrong.Add(1) <= 5 {
					t.Error(err)
				}
			}
		})
	}
	c.Eventually(2*time.Minute, "a third has asked", func() bool { return next.Load() > int64(len(order)/3) })
	for tenant := range revoked {
		i.revoke(tenant)
	}
	if err := c.Reload(strings.Replace(text, "sources tenant-*", "sources tenant-* tenant-1*", 1)); err != nil {
		t.Errorf("the reload in the middle: %v", err)
	}
	asking.Wait()
	if n := wrong.Load(); n > 5 {
		t.Errorf("%d requests were answered wrongly", n)
	}
	odd := 0
	for n := range tenants {
		tenant, want := "tenant-"+itoa(n), 1
		if revoked[tenant] {
			want = 2
		}
		if got := i.count(tenant); got != want {
			if odd++; odd <= 5 {
				t.Errorf("%d token requests of %s, want %d: %v", got, tenant, want, sourceLog(c, tenant))
			}
		}
	}
	if odd > 5 {
		t.Errorf("of %d tenants there were other token requests than the first and one for a revoked token", odd)
	}
}

// TestACallerCannotNameASourceOutsideThePattern tries names that a caller might.
// Nothing is sent, and the log says so without repeating what the caller wrote.
func TestACallerCannotNameASourceOutsideThePattern(t *testing.T) {
	t.Parallel()
	const mark = "mark17"
	i := newIssuer(t)
	upstream := newRecorder(t)
	sources := i.source("tenant-a") + i.source("tenant-b") + i.source("admin") + i.source("tenants-x")
	text, url := caddyfile(t, sources, fmt.Sprintf(`log
	handle /whole/* {
		inject_token {header.X-Source} %[1]s {
			sources tenant-*
		}
	}
	handle /part/* {
		inject_token tenant-{header.X-Source} %[1]s {
			sources tenant-*
		}
	}
	handle /vars/* {
		vars source {query.source}
		inject_token {vars.source} %[1]s {
			sources tenant-a tenant-b
		}
	}
	handle /passing/* {
		inject_token {header.X-Source} %[1]s {
			sources tenant-*
			unavailable pass
			existing keep
		}
	}`, upstream.address))
	c := harness.Start(t, text, withSecret(provider.ClientSecret), harness.Env("MARK="+mark, "SOURCE=tenant-a"))
	ask := func(path string, values ...string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["X-Source"] = values
		if path == "/vars/" {
			req.URL.RawQuery = "source=" + queryEscaped(values)
		}
		resp, body := harness.Do(t, req)
		return resp.StatusCode, body
	}
	for _, k := range []struct{ path, value, source string }{
		{"/whole/", "tenant-a", "tenant-a"}, {"/whole/", "tenant-b", "tenant-b"},
		{"/part/", "a", "tenant-a"}, {"/part/", "b", "tenant-b"},
		{"/vars/", "tenant-a", "tenant-a"}, {"/passing/", "tenant-b", "tenant-b"},
	} {
		upstream.clear()
		status, body := ask(k.path, k.value)
		seen := upstream.requests()
		if status != http.StatusOK || len(seen) != 1 {
			t.Fatalf("%s%s was answered %d %q", k.path, k.value, status, body)
		}
		token := strings.TrimPrefix(seen[0].header.Get("Authorization"), "Bearer ")
		if got := i.owner(token); got != k.source {
			t.Errorf("%s%s got a token of %q", k.path, k.value, got)
		}
	}

	upstream.clear()
	asked := 0
	values := []string{
		"admin", "tenants-x", "", mark, "tenant-" + mark, "tenant-", "../" + mark, "../tenant-a", "tenant-a/../admin", "tenant-a/", "/tenant-a",
		"TENANT-A", "tenant-a" + mark, "tenant-a,admin", "tenant-a admin", "tenant-{env.MARK}", "{env.SOURCE}", "{env.MARK}", "tenant-*", "*", "tenant-?",
		"tenant-[a]", "tenant-a\tx", "tenant-\u0430", "{http.request.header.X-Other}", "\\tenant-a", strings.Repeat("tenant-", 50) + mark,
	}
	for _, path := range []string{"/whole/", "/part/", "/vars/", "/passing/"} {
		for _, value := range values {
			if path == "/part/" && value == "a" {
				continue
			}
			status, body := ask(path, value)
			asked++
			if status != http.StatusForbidden {
				t.Errorf("%s%.60q was answered %d %.100q, want 403", path, value, status, body)
			}
			if strings.Contains(body, mark) || value != "" && len(value) > 3 && strings.Contains(body, value) {
				t.Errorf("%s%.60q is echoed: %.100q", path, value, body)
			}
		}
		if path == "/vars/" {
			continue
		}
		// None at all, and more than one.
		for _, several := range [][]string{nil, {"admin", "tenant-a"}} {
			status, body := ask(path, several...)
			asked++
			if status != http.StatusForbidden {
				t.Errorf("%s with %q was answered %d %.100q, want 403", path, several, status, body)
			}
		}
	}
	if seen := upstream.requests(); len(seen) != 0 {
		t.Errorf("%d requests were sent, such as %v", len(seen), seen[0])
	}
	var warnings []map[string]any
	c.Eventually(20*time.Second, "the access log is complete", func() bool { return len(outcomes(c)) == asked+6 })
	for _, line := range c.LogLines() {
		if line["msg"] == "handled request" {
			if source := fmt.Sprint(line["token_source"]); strings.Contains(source, mark) || source == "admin" {
				t.Errorf("the access log says that the source was %.100q", source)
			}
			if line["status"] == float64(http.StatusForbidden) && line["token_outcome"] != "failed" {
				t.Errorf("the access log calls the outcome %v", line["token_outcome"])
			}
		}
		if line["level"] == "warn" && strings.Contains(fmt.Sprint(line["logger"]), "inject_token") {
			warnings = append(warnings, line)
		}
	}
	if len(warnings) == 0 {
		t.Error("the log has no warning")
	}
	for _, line := range warnings {
		text, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), mark) || strings.Contains(string(text), "TENANT-A") {
			t.Errorf("a warning repeats what the caller wrote: %s", text)
		}
	}
	if i.count("admin") > 1 || i.count("tenant-a") != 1 {
		t.Errorf("%d token requests of admin and %d of tenant-a", i.count("admin"), i.count("tenant-a"))
	}
}

func queryEscaped(values []string) string {
	var escaped strings.Builder
	for _, b := range []byte(strings.Join(values, ",")) {
		fmt.Fprintf(&escaped, "%%%02x", b)
	}
	return escaped.String()
}

// TestSourcesByRequestNeedAPattern wants a missing pattern found at load.
func TestSourcesByRequestNeedAPattern(t *testing.T) {
	t.Parallel()
	for name, k := range map[string]struct {
		site, says string
	}{
		"no pattern":                {"inject_token tenant-{header.X-Tenant} 127.0.0.1:9001", "sources"},
		"no pattern, the transport": {"reverse_proxy 127.0.0.1:9001 {\n transport inject_token tenant-{header.X-Tenant}\n}", "sources"},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIssuer(t)
			text, _ := caddyfile(t, i.source("tenant-a"), k.site)
			out, code := validate(t, text)
			out = out[max(0, strings.LastIndex(out, "Error:")):]
			if code == 0 || !strings.Contains(out, k.says) {
				t.Errorf("want an error that says %s, got code %d:\n%s", k.says, code, out)
			}
		})
	}
}
