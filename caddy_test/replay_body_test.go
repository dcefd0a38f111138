package caddy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// Tests in this file in which a body is still read when the answer has been
// given have no access log: Caddy's counts the bytes of the body without a lock,
// also for a plain reverse_proxy.

// bufferSize is the default of replay_buffer.
const bufferSize = 64 << 10

// pieces is a body that comes in pieces of any size, with pauses between some.
type pieces struct {
	rest   []byte
	random *rand.Rand
	pause  time.Duration
}

func (p *pieces) Read(into []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := min(len(into), len(p.rest), 1+p.random.IntN(16<<10))
	if p.pause > 0 && p.random.IntN(3) == 0 {
		time.Sleep(p.pause)
	}
	copy(into, p.rest[:n])
	p.rest = p.rest[n:]
	return n, nil
}

// digest answers with the digest of the body, and how it was framed.
func digest(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	n, err := io.Copy(hash, r.Body)
	fmt.Fprintf(w, "%x, %d bytes, %v, length %d, sum %q", hash.Sum(nil), n, err, r.ContentLength, r.Trailer.Get("X-Sum"))
}

// upload is one of a round: how its body is framed, the caller's protocol, and
// the upstream's.
type upload struct {
	chunked    bool
	front, way string
}

// uploads are all combinations.
var uploads = func() (all []upload) {
	for _, chunked := range []bool{false, true} {
		for _, front := range []string{"HTTP/1.1", "HTTP/2"} {
			for _, way := range []string{"h1", "h2"} {
				all = append(all, upload{chunked, front, way})
			}
		}
	}
	return all
}()

// replayUploads makes so many rounds of uploads. In each round the uploads
// begin together with a token that the API has revoked; no new one is issued
// before the API has refused them all. Then the body that arrives must be the
// one that was sent.
func replayUploads(t *testing.T, rounds int, refuse http.HandlerFunc) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	i := newIssuer(t)
	crowds := make(map[string]*crowd) // by source, of the refusals of a round
	var sources, routes strings.Builder
	for n := range rounds {
		name := "round-" + itoa(n)
		crowds[name] = newCrowd(len(uploads))
		sources.WriteString(i.source(name))
	}
	api := &gate{valid: i.valid, next: digest, refuse: func(w http.ResponseWriter, r *http.Request) {
		if all := crowds[i.owner(bearerOf(r))]; all != nil {
			go all.wait() // the refusal itself is not held back
		}
		refuse(w, r)
	}}
	address, secure := serve(t, api), serveTLS(t, api)
	for n := range rounds {
		fmt.Fprintf(&routes, `handle /h1/%[1]d {
			inject_token round-%[1]d %[2]s
		}
		handle /h2/%[1]d {
			inject_token round-%[1]d https://localhost:%[3]s {
				transport http {
					tls_insecure_skip_verify
					versions 2
				}
			}
		}
		`, n, address, secure)
	}
	i.interceptWith(func(_ http.ResponseWriter, _ *http.Request, client string, n int) bool {
		if n > 1 {
			crowds[client].come()
		}
		return false
	})
	text, url := caddyfile(t, sources.String(), "log\n"+routes.String())
	port := itoa(harness.Port(t))
	w := way{http: url, https: "https://localhost:" + port}
	text = strings.Replace(text, "\nhttp://", "\n"+w.https+", http://", 1)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	w.awaitCertificate(t)
	clients := w.clients(t)
	for n := range rounds {
		c.Eventually(30*time.Second, "there is a token of each source", func() bool { return i.token("round-"+itoa(n)) != "" })
	}

	var stood atomic.Int64 // where the machine did for a second: that is a caller who stalls
	for n := range rounds {
		warm(t, url+"/h1/"+itoa(n))
		i.revoke("round-" + itoa(n))
		var sending sync.WaitGroup
		for k, u := range uploads {
			sending.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(n*len(uploads)+k)))
				body := make([]byte, 1+random.IntN(bufferSize))
				if random.IntN(8) == 0 {
					body = make([]byte, bufferSize)
				}
				for j := range body {
					body[j] = byte(random.Uint32())
				}
				source := &pieces{rest: body, random: random}
				if random.IntN(4) == 0 {
					source.pause = 3 * time.Millisecond
				}
				client := clients[u.front]
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, client.base+"/"+u.way+"/"+itoa(n), io.NopCloser(source))
				if err != nil {
					t.Error(err)
					return
				}
				length, sum := len(body), ""
				if u.chunked {
					length = -1
				}
				if u.chunked && u.way == "h1" {
					// Go's HTTP/2 server breaks off a connection on which trailers
					// come for a stream that it has ended meanwhile.
					sum = fmt.Sprint(random.Uint64())
					req.Trailer = http.Header{"X-Sum": {sum}}
				}
				req.ContentLength = int64(length)
				began := time.Now()
				resp, err := client.Do(req)
				if err != nil {
					t.Errorf("round %d, %+v, %d bytes: %v after %v", n, u, len(body), err, time.Since(began))
					return
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				want := fmt.Sprintf("%x, %d bytes, %v, length %d, sum %q", sha256.Sum256(body), len(body), nil, length, sum)
				if resp.StatusCode == http.StatusUnauthorized && string(got) == refusedBody && err == nil && time.Since(began) >= time.Second {
					stood.Add(1)
					return
				}
				if resp.StatusCode != http.StatusOK || string(got) != want || err != nil {
					t.Errorf("round %d, %+v, pause %v: answered %d %.200q %v after %v, want %s", n, u, source.pause, resp.StatusCode, got, err, time.Since(began), want)
				}
			})
		}
		sending.Wait()
		if got := i.count("round-" + itoa(n)); got != 2 {
			t.Errorf("round %d: %d token requests, want 2", n, got)
		}
		if t.Failed() {
			return
		}
	}
	all := rounds * len(uploads)
	if n := int(stood.Load()); n > all/50 {
		t.Errorf("%d of %d uploads were refused after a second; that is no machine that stood still", n, all)
	} else {
		waitOutcomes(t, c, "replayed", all-n)
	}
	for n := range rounds {
		for _, way := range []string{"/h1/", "/h2/"} {
			if refused, _ := api.attempts(way + itoa(n)); refused != len(uploads)/2 {
				t.Errorf("%s%d was refused %d times, want %d", way, n, refused, len(uploads)/2)
			}
		}
	}
}

// awaitCertificate waits until the site can be reached over TLS.
func (w way) awaitCertificate(t *testing.T) {
	t.Helper()
	harness.Eventually(t, time.Minute, "there is a certificate", func() bool {
		resp, err := w.clients(t)["HTTP/2"].Head(w.https + "/nothing")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
}

// TestAThousandUploadsThatWereRefusedBeforeTheyWereReadArriveWhole is the trap
// of every replay: an attempt that was given up still reads from the body.
func TestAThousandUploadsThatWereRefusedBeforeTheyWereReadArriveWhole(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	replayUploads(t, 1000/len(uploads), func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%4 == 0 { // Go's own way: over HTTP/1.1 it waits for the body
			refuseLoudly(w, r)
			return
		}
		refuseEarly(w, r)
	})
}

// TestUploadsThatWereRefusedWhenHalfReadArriveWhole refuses at a random point
// of the body.
func TestUploadsThatWereRefusedWhenHalfReadArriveWhole(t *testing.T) {
	t.Parallel()
	replayUploads(t, 12, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, rand.Int64N(bufferSize))
		refuseEarly(w, r)
	})
}

// TestUploadsThatWereRefusedWhenAllReadArriveWhole refuses after the body, with
// its trailers, has come.
func TestUploadsThatWereRefusedWhenAllReadArriveWhole(t *testing.T) {
	t.Parallel()
	replayUploads(t, 12, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		refuseLoudly(w, r)
	})
}

// TestTrailersOfARequestSurviveAReplay has the caller announce a trailer of its
// own, and one in the place of the token.
func TestTrailersOfARequestSurviveAReplay(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	api := &gate{valid: i.valid,
		refuse: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("read") {
				_, _ = io.Copy(io.Discard, r.Body)
			}
			refuseLoudly(w, r)
		},
		next: func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %v, %v", body, err, r.Trailer)
		}}
	address := serve(t, api)
	names := []string{"h1", "h1-read", "h2", "h2-read"}
	var sources, routes strings.Builder
	for _, name := range names {
		sources.WriteString(i.source(name))
		upstream := address
		if strings.HasPrefix(name, "h2") {
			upstream = "h2c://" + address
		}
		fmt.Fprintf(&routes, "inject_token /%s %[1]s %s {\n header Authorization\n header X-Api-Key\n}\n", name, upstream)
	}
	text, url := caddyfile(t, sources.String(), "log\n"+routes.String())
	harness.Start(t, strings.Replace(text, "{{globals}}", "{{globals}}\n servers {\n protocols h1 h2c\n}", 1), withSecret(provider.ClientSecret))
	for _, name := range names {
		for _, front := range []string{"HTTP/1.1", "h2c"} {
			t.Run(name+" from "+front, func(t *testing.T) {
				client := way{http: url}.clients(t)[front]
				if front == "HTTP/1.1" {
					warm(t, url+"/"+name)
					i.revoke(name)
				}
				query := ""
				if strings.HasSuffix(name, "-read") {
					query = "?read"
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/"+name+query, io.MultiReader(strings.NewReader("the body")))
				if err != nil {
					t.Fatal(err)
				}
				req.Trailer = http.Header{"X-Kept": {"yes"}, "X-Api-Key": {"CALLER"}}
				if front == "HTTP/1.1" { // over HTTP/2 Go's server does not take it
					req.Trailer.Set("Authorization", "Bearer CALLER")
				}
				resp, body := client.do(t, req)
				if want := "the body <nil>, map[X-Kept:[yes]]"; resp.StatusCode != http.StatusOK || body != want {
					t.Errorf("answered %d %.200s, want %s", resp.StatusCode, body, want)
				}
			})
		}
	}
}

// TestARefusedUploadThatIsTooLargeIsPassedOnAndTheTokenRenewed has bodies of
// one byte more than is kept, and one much larger.
func TestARefusedUploadThatIsTooLargeIsPassedOnAndTheTokenRenewed(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name     string
		size     int64
		chunked  bool
		read     int64 // by the API, before it refuses
		replayed bool
	}{
		{"length-just-fits", bufferSize, false, bufferSize, true},
		{"length-one-more", bufferSize + 1, false, 0, false},
		{"length-one-more-read", bufferSize + 1, false, bufferSize + 1, false},
		{"length-large", 3 << 20, false, 0, false},
		{"chunked-just-fits", bufferSize, true, bufferSize, true},
		{"chunked-one-more", bufferSize + 1, true, bufferSize + 1, false},
		{"chunked-large", 3 << 20, true, 1 << 20, false},
		{"chunked-all-read", 3 << 20, true, 3 << 20, false},
	}
	i := newIssuer(t)
	api := &gate{valid: i.valid, next: digest, refuse: func(w http.ResponseWriter, r *http.Request) {
		read, _ := strconv.ParseInt(r.URL.Query().Get("read"), 10, 64)
		_, _ = io.CopyN(io.Discard, r.Body, read)
		refuseEarly(w, r)
	}}
	address := serve(t, api)
	var sources, routes strings.Builder
	for _, k := range cases {
		for _, way := range []string{"h1", "h2"} {
			sources.WriteString(i.source(way + "-" + k.name))
			fmt.Fprintf(&routes, "inject_token /%s/%s %[1]s-%s %s%s\n", way, k.name, map[string]string{"h1": "", "h2": "h2c://"}[way], address)
		}
	}
	text, url := caddyfile(t, sources.String(), routes.String())
	harness.Start(t, strings.Replace(text, "{{globals}}", "{{globals}}\n servers {\n protocols h1 h2c\n}", 1), withSecret(provider.ClientSecret))
	clients := way{http: url}.clients(t)
	for _, k := range cases {
		for behind, front := range map[string]string{"h1": "HTTP/1.1", "h2": "h2c"} {
			t.Run(k.name+" by "+front, func(t *testing.T) {
				path := "/" + behind + "/" + k.name
				warm(t, url+path)
				i.revoke(behind + "-" + k.name)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+path+"?read="+strconv.FormatInt(k.read, 10), io.NopCloser(newStream(k.size)))
				if err != nil {
					t.Fatal(err)
				}
				if req.ContentLength = k.size; k.chunked {
					req.ContentLength = -1
				}
				if k.size > 1<<20 && k.read < k.size {
					// Over HTTP/1.1 a server that answers early closes the
					// connection, and the answer may be lost with it.
					front = "h2c"
				}
				resp, body := clients[front].do(t, req)
				if k.replayed {
					hash := sha256.New()
					_, _ = io.Copy(hash, newStream(k.size))
					if want := fmt.Sprintf("%x, %d bytes, <nil>", hash.Sum(nil), k.size); resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, want) {
						t.Errorf("answered %d %.100q, want %s", resp.StatusCode, body, want)
					}
				} else {
					assertRefusedLoudly(t, path, resp, body, http.StatusUnauthorized)
				}
				eventuallyServed(t, path, url+path)
				if n := i.count(behind + "-" + k.name); n != 2 {
					t.Errorf("%d token requests, want 2", n)
				}
			})
		}
	}
}

// TestWhatCannotBeReplayedWaitsWhileTheTokenIsSuspect has a large upload come
// after another caller was refused, and before there is a new token.
func TestWhatCannotBeReplayedWaitsWhileTheTokenIsSuspect(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	i := newIssuer(t)
	release := make(chan struct{})
	i.interceptWith(func(_ http.ResponseWriter, r *http.Request, _ string, n int) bool {
		if n == 2 {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	})
	api := &gate{valid: i.valid, next: digest}
	text, url := caddyfile(t, i.source("crm", "timeout 2m"), "inject_token crm "+serve(t, api)+" {\n wait 2m\n}")
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	i.revoke()
	var asking sync.WaitGroup
	asking.Go(func() {
		if got := tryToAsk(url + "/small"); got.status != http.StatusOK {
			t.Errorf("the first caller was answered %d %q", got.status, got.body)
		}
	})
	c.Eventually(20*time.Second, "the token is suspect", func() bool { return i.count("crm") == 2 })
	asking.Go(func() {
		req, err := http.NewRequest(http.MethodPut, url+"/large", newStream(size))
		if err != nil {
			t.Error(err)
			return
		}
		req.ContentLength = size
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || !strings.Contains(string(body), itoa(size)+" bytes, <nil>") {
			t.Errorf("the upload was answered %d %.100s", resp.StatusCode, body)
		}
	})
	c.Eventually(20*time.Second, "the upload is under way or was refused", func() bool {
		refused, _ := api.attempts("/large")
		return underWay(t, c) == 2 || refused > 0
	})
	close(release)
	asking.Wait()
	if refused, passed := api.attempts("/large"); refused != 0 || passed != 1 {
		t.Errorf("the upload was refused %d times and let through %d times; it was to wait for the token", refused, passed)
	}
	if refused, passed := api.attempts("/small"); refused != 1 || passed != 1 {
		t.Errorf("the small request was refused %d times and let through %d times", refused, passed)
	}
}

// TestAnUploadIsNotReadAhead has an API that tells what has come, and a caller
// that sends on only then: the body is passed on while it comes, and what is
// answered comes back meanwhile. In all it is several times what is kept.
func TestAnUploadIsNotReadAhead(t *testing.T) {
	t.Parallel()
	const parts, part = 300, 1 << 10
	p := provider.New(t, provider.Dialect{})
	upstream := serve(t, guarded(p, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		buffer := make([]byte, part)
		for {
			if _, err := io.ReadFull(r.Body, buffer); err != nil {
				return
			}
			_, _ = w.Write(buffer)
			w.(http.Flusher).Flush()
		}
	}))
	_, ways := bothWays(t, p, "proxy h2c://"+upstream+" {\n}")
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			warm := w.clients(t)["HTTP/1.1"]
			warm.send(t, http.MethodGet, "/", nil, nil)
			body, sender := io.Pipe()
			req, err := http.NewRequestWithContext(within(t, time.Minute), http.MethodPost, w.http, body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := w.clients(t)["h2c"].Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			for n := range parts {
				sent, got := bytes.Repeat([]byte{byte(n)}, part), make([]byte, part)
				if _, err := sender.Write(sent); err != nil {
					t.Fatalf("part %d: %v", n, err)
				}
				if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, sent) {
					t.Fatalf("part %d did not come back: %v", n, err)
				}
			}
			sender.Close()
			if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
				t.Errorf("%d bytes more came, %v", len(rest), err)
			}
		})
	}
}

// TestLargeUploadsAreNotKept has many uploads at once, all of them refused after
// a while, and wants Caddy's heap to stay far below what has passed.
func TestLargeUploadsAreNotKept(t *testing.T) {
	t.Parallel()
	const callers, size, room = 24, 16 << 20, 96 << 20
	i := newIssuer(t)
	api := &gate{valid: i.valid, refuse: func(w http.ResponseWriter, r *http.Request) {
		_, _, _ = checksum(r.Body)
		refuseLoudly(w, r)
	}}
	text, url := caddyfile(t, i.source("crm"), "inject_token crm "+serve(t, api))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/warm")
	heap := func() int {
		var vars struct {
			Memstats struct{ HeapSys int } // what it has taken from the system, and never gives back
		}
		if err := json.Unmarshal([]byte(c.AdminGet("/debug/vars")), &vars); err != nil || vars.Memstats.HeapSys == 0 {
			t.Fatalf("the admin API does not tell the size of the heap: %v", err)
		}
		return vars.Memstats.HeapSys
	}
	before := heap()
	i.revoke()
	var sending sync.WaitGroup
	for range callers {
		sending.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+"/x", io.NopCloser(newStream(size)))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(req) // chunked
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
			if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusOK {
				t.Errorf("answered %d", resp.StatusCode)
			}
		})
	}
	sending.Wait()
	if refused, _ := api.attempts("/x"); refused < callers/2 {
		t.Errorf("only %d of the uploads were refused", refused)
	}
	if grown := heap() - before; grown > room {
		t.Errorf("the heap grew by %d MiB while %d MiB passed", grown>>20, callers*size>>20)
	}
}

// TestARequestWhoseReplayFindsNobodyIsNotCutShort has an upstream that refuses
// and then goes away, so that the replay cannot be delivered. reverse_proxy takes
// that for a request that never left, and tries the next upstream: that one must
// get the whole body or nothing.
func TestARequestWhoseReplayFindsNobodyIsNotCutShort(t *testing.T) {
	t.Parallel()
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprintf("chunked: %v", chunked), func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t)
			var leaving *httptest.Server
			leaving = httptest.NewServer(&gate{valid: i.valid, refuse: func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				leaving.Listener.Close()
				w.Header().Set("Connection", "close")
				w.WriteHeader(http.StatusUnauthorized)
			}})
			closeAtEnd(t, leaving)
			staying := serve(t, &gate{valid: i.valid, next: digest})
			text, url := caddyfile(t, i.source("crm"), fmt.Sprintf("inject_token crm %s %s {\n lb_policy round_robin\n lb_retries 1\n}", staying, leaving.Listener.Addr()))
			harness.Start(t, text, withSecret(provider.ClientSecret))
			warm(t, url+"/one", url+"/two") // the policy begins at the second; so the third comes there as well
			i.revoke()
			const body = "the whole body"
			var reader io.Reader = strings.NewReader(body)
			if chunked {
				reader = io.MultiReader(reader)
			}
			req, err := http.NewRequest(http.MethodPost, url+"/x", reader)
			if err != nil {
				t.Fatal(err)
			}
			resp, got := harness.Do(t, req)
			want := fmt.Sprintf("%x, %d bytes, <nil>", sha256.Sum256([]byte(body)), len(body))
			if resp.StatusCode != http.StatusUnauthorized && (resp.StatusCode != http.StatusOK || !strings.HasPrefix(got, want)) {
				t.Errorf("answered %d %.120q, want the refusal or %s", resp.StatusCode, got, want)
			}
		})
	}
}

// TestARefusalThatIsPassedOnAfterAllIsWhole has an API that refuses an upload
// which is still on its way, and a provider that has no other token: everything
// was ready for a replay, and then the refusal is the answer.
func TestARefusalThatIsPassedOnAfterAllIsWhole(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	refused := make(chan struct{}, 10)
	// More than what is in some buffer when the attempt is given up.
	large := strings.Repeat("a refusal in many words. ", 40_000)
	api := &gate{valid: i.valid, refuse: func(w http.ResponseWriter, r *http.Request) {
		refused <- struct{}{}
		answerEarly(w, r, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, large)
		})
	}}
	address := serve(t, api)
	cases := []string{"h1-down", "h2-down", "h1-hangs", "h2-hangs"}
	i.interceptWith(func(w http.ResponseWriter, r *http.Request, client string, n int) bool {
		switch {
		case n == 1:
			return false
		case strings.HasSuffix(client, "hangs"):
			return hang(w, r, n)
		}
		return provider.Fail(http.StatusServiceUnavailable, "")(w, r, n)
	})
	var sources, routes strings.Builder
	for _, name := range cases {
		sources.WriteString(i.source(name))
		fmt.Fprintf(&routes, "inject_token /%s %[1]s %s%s {\n wait 2s\n}\n", name, map[bool]string{true: "h2c://"}[strings.HasPrefix(name, "h2")], address)
	}
	text, url := caddyfile(t, sources.String(), routes.String())
	// Without this an answer over HTTP/1.1 that comes before the body is broken off,
	// with a plain reverse_proxy as well.
	text = strings.Replace(text, "{{globals}}", "{{globals}}\n servers {\n enable_full_duplex\n}", 1)
	harness.Start(t, text, withSecret(provider.ClientSecret))
	for _, name := range cases {
		t.Run(name, func(t *testing.T) {
			eventuallyServed(t, name, url+"/"+name)
			i.revoke(name)
			conn := dial(t, url)
			fmt.Fprintf(conn, "POST /%s HTTP/1.1\r\nHost: %s\r\nContent-Length: 1500\r\n\r\n%s", name, strings.TrimPrefix(url, "http://"), strings.Repeat("a", 500))
			<-refused
			time.Sleep(200 * time.Millisecond) // the caller's pause, while the refusal arrives
			fmt.Fprint(conn, strings.Repeat("b", 500))
			time.Sleep(200 * time.Millisecond) // and another
			fmt.Fprint(conn, strings.Repeat("c", 500))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusUnauthorized || string(body) != large || err != nil {
				t.Errorf("answered %d and %d bytes of %d, %v", resp.StatusCode, len(body), len(large), err)
			}
		})
	}
}

// TestWhatWasKeptForAReplayIsForgottenWithTheAnswer has many answers that go on
// for long, after bodies that could have been replayed.
func TestWhatWasKeptForAReplayIsForgottenWithTheAnswer(t *testing.T) {
	t.Parallel()
	const callers, size = 200, 60 << 10
	p := provider.New(t, provider.Dialect{})
	end := make(chan struct{})
	upstream := serve(t, guarded(p, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.(http.Flusher).Flush()
		if r.Method == http.MethodPost {
			<-end
		}
	}))
	defer close(end)
	c, ways := bothWays(t, p, "proxy "+upstream+" {\n}")
	heap := func() int {
		m := heapAlloc.FindStringSubmatch(c.AdminGet("/debug/pprof/heap?gc=1&debug=1"))
		if m == nil {
			t.Fatal("pprof does not tell the size of the heap")
		}
		n, _ := strconv.Atoi(m[1])
		return n
	}
	each := make(map[string]int)
	for _, w := range ways {
		client := w.clients(t)["HTTP/1.1"]
		client.send(t, http.MethodGet, "/", nil, nil)
		before := heap()
		for range callers {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, client.base, bytes.NewReader(make([]byte, size)))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("answered %d", resp.StatusCode)
			}
		}
		each[w.name] = (heap() - before) / callers
	}
	if each["injected"] > each["plain"]+size/2 {
		t.Errorf("while its answer goes on a request takes %d KiB, and %d KiB without us", each["injected"]>>10, each["plain"]>>10)
	}
}

var heapAlloc = regexp.MustCompile(`# HeapAlloc = (\d+)`)

// TestACallerThatStallsGetsTheRefusal has callers that send the half of a body
// and wait for an answer. As with a plain reverse_proxy, one by HTTP/1.1 gets it
// before it has sent all only where enable_full_duplex is set; and the end of an
// answer that came over HTTP/2 waits for the body as well.
func TestACallerThatStallsGetsTheRefusal(t *testing.T) {
	t.Parallel()
	const atMost = 20 * time.Second // promised: a few seconds
	i := newIssuer(t)
	api := &gate{
		valid: i.valid,
		refuse: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 500)
			time.Sleep(100 * time.Millisecond) // by then Caddy waits for more
			refuseEarly(w, r)
		},
		next: func(w http.ResponseWriter, r *http.Request) {
			answerEarly(w, r, func(http.ResponseWriter, *http.Request) {})
		},
	}
	address := serve(t, api)
	cases := []string{"h1-length", "h1-chunked", "h2-length", "h2-chunked"}
	var sources, routes strings.Builder
	for _, name := range cases {
		for _, front := range []string{"http1", "h2c"} {
			sources.WriteString(i.source(name + "-" + front))
			upstream := address
			if strings.HasPrefix(name, "h2") {
				upstream = "h2c://" + address
			}
			fmt.Fprintf(&routes, "inject_token /%s/%s %[1]s-%[2]s %s\n", name, front, upstream)
		}
	}
	text, url := caddyfile(t, sources.String(), routes.String())
	text = strings.Replace(text, "{{globals}}", "{{globals}}\n servers {\n protocols h1 h2c\n enable_full_duplex\n}", 1)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	clients, refused := way{http: url}.clients(t), 0
	for _, name := range cases {
		for front, protocol := range map[string]string{"http1": "HTTP/1.1", "h2c": "h2c"} {
			t.Run(name+" from "+protocol, func(t *testing.T) {
				path := "/" + name + "/" + front
				warm(t, url+path)
				i.revoke(name + "-" + front)
				began := time.Now()
				resp := sendHalf(t, clients[protocol], path, strings.HasSuffix(name, "length"))
				if resp.StatusCode == http.StatusOK {
					return // Caddy was not waiting for more when the refusal came
				}
				refused++
				text := make([]byte, len(refusedBody))
				_, err := io.ReadFull(resp.Body, text)
				took := time.Since(began)
				if strings.HasPrefix(name, "h1") && err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
				} else {
					resp.Trailer = http.Header{"X-Refused-Trailer": {refusedMark}, "X-Refused-Late": {refusedMark}} // not yet
				}
				if err != nil {
					t.Errorf("the refusal is broken off: %v", err)
				}
				assertRefusedLoudly(t, path, resp, string(text), http.StatusUnauthorized)
				if took > atMost {
					t.Errorf("the refusal was held back for %v", took)
				}
				eventuallyServed(t, path, url+path)
				if n := i.count(name + "-" + front); n != 2 {
					t.Errorf("%d token requests, want 2", n)
				}
			})
		}
	}
	if refused < 4 {
		t.Errorf("only %d of the callers were refused", refused)
	}
	c.Eventually(20*time.Second, "nobody is under way when the callers have left", func() bool { return underWay(t, c) == 0 })
}

// sendHalf sends a request with the half of its body, and returns the answer
// that comes then.
func sendHalf(t *testing.T, c client, path string, length bool) *http.Response {
	t.Helper()
	half := strings.Repeat("x", 500)
	if c.major == 1 { // Go's client would not give the answer away before the other half
		conn, framing := dial(t, c.base), "Content-Length: 1000"
		if !length {
			framing, half = "Transfer-Encoding: chunked", "1f4\r\n"+half+"\r\n"
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n%s", path, strings.TrimPrefix(c.base, "http://"), framing, half)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	body, sender := io.Pipe()
	ctx := within(t, 30*time.Second)
	context.AfterFunc(ctx, func() { sender.Close() })
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if length {
		req.ContentLength = 1000
	}
	go fmt.Fprint(sender, half)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// TestACallerThatStallsKeepsNobodyFromANewToken has callers that wait for an
// answer in the middle of their body, where net/http gives none. When they go
// on they get an answer that is whole.
func TestACallerThatStallsKeepsNobodyFromANewToken(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	api := &gate{valid: i.valid, next: digest, refuse: refuseEarly}
	address := serve(t, api)
	text, url := caddyfile(t, i.source("h1")+i.source("h2"), fmt.Sprintf("inject_token /h1 h1 %[1]s\ninject_token /h2 h2 h2c://%[1]s", address))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	for _, name := range []string{"h1", "h2"} {
		for _, goesOn := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, goes on: %v", name, goesOn), func(t *testing.T) {
				if goesOn { // the pause after the first refusal would be in the way of a second
					warm(t, url+"/"+name)
					i.revoke(name)
				}
				conn := dial(t, url)
				fmt.Fprintf(conn, "POST /%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n%s", name, strings.TrimPrefix(url, "http://"), strings.Repeat("x", 500))
				if !goesOn {
					conn.Close()
					return
				}
				eventuallyServed(t, name, url+"/"+name)
				if n := i.count(name); n != 2 {
					t.Errorf("%d token requests, want 2", n)
				}
				fmt.Fprint(conn, strings.Repeat("x", 500))
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				want := fmt.Sprintf("%x, 1000 bytes, <nil>", sha256.Sum256([]byte(strings.Repeat("x", 1000))))
				switch {
				case err != nil:
					t.Errorf("the answer is broken off: %v", err)
				case resp.StatusCode == http.StatusOK && !strings.HasPrefix(string(body), want): // it went on soon enough
					t.Errorf("answered %.100q, want %s", body, want)
				case resp.StatusCode != http.StatusOK:
					assertRefusedLoudly(t, name, resp, string(body), http.StatusUnauthorized)
				}
			})
		}
	}
	c.Eventually(20*time.Second, "nobody is under way", func() bool { return underWay(t, c) == 0 })
}

// TestACallerWhoPausesIsReplayed has a caller that stops for a moment in the
// middle of its body, and then goes on when the API has refused already.
func TestACallerWhoPausesIsReplayed(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	refused := make(chan struct{}, 10)
	api := &gate{valid: i.valid, next: digest, refuse: func(w http.ResponseWriter, r *http.Request) {
		refused <- struct{}{}
		refuseEarly(w, r)
	}}
	address := serve(t, api)
	text, url := caddyfile(t, i.source("h1")+i.source("h2"), fmt.Sprintf("inject_token /h1 h1 %[1]s\ninject_token /h2 h2 h2c://%[1]s", address))
	harness.Start(t, text, withSecret(provider.ClientSecret))
	for _, name := range []string{"h1", "h2"} {
		warm(t, url+"/"+name)
		i.revoke(name)
		conn := dial(t, url)
		fmt.Fprintf(conn, "POST /%s HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\n%s", name, strings.TrimPrefix(url, "http://"), strings.Repeat("a", 500))
		<-refused
		time.Sleep(200 * time.Millisecond) // the caller's pause, while the refusal arrives
		fmt.Fprint(conn, strings.Repeat("b", 500))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		if want := fmt.Sprintf("%x, 1000 bytes, <nil>", sha256.Sum256([]byte(strings.Repeat("a", 500)+strings.Repeat("b", 500)))); !strings.HasPrefix(string(body), want) {
			t.Errorf("%s: answered %d %.100s, want %s", name, resp.StatusCode, body, want)
		}
	}
}

// TestExpectContinueWorksWithAReplay has callers that send a body only when they
// are asked to go on. An API that refuses does not ask for the body; where the
// request is sent again, the second attempt does.
func TestExpectContinueWorksWithAReplay(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	api := &gate{valid: i.valid, next: func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %v, %q", body, err, r.Header["Expect"])
	}}
	address := serve(t, api)
	text, url := caddyfile(t, i.source("waits")+i.source("sends")+i.source("off"), fmt.Sprintf(`log
	inject_token /waits waits %[1]s {
		transport http {
			expect_continue_timeout 1m
		}
	}
	inject_token /sends sends %[1]s
	inject_token /off off %[1]s {
		replay_on off
		transport http {
			expect_continue_timeout 1m
		}
	}`, address))
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	warm(t, url+"/waits", url+"/sends", url+"/off")
	i.revoke()
	begin := func(path string) (conn io.Writer, reader *bufio.Reader) {
		connection := dial(t, url)
		fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n", path, strings.TrimPrefix(url, "http://"))
		return connection, bufio.NewReader(connection)
	}
	for n, path := range []string{"/waits", "/sends"} {
		conn, reader := begin(path)
		if line, err := reader.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Errorf("%s: answered %q, %v", path, line, err)
			continue
		}
		fmt.Fprint(conn, "the whole body")
		resp, err := readFinal(io.MultiReader(strings.NewReader("HTTP/1.1 100 Continue\r\n"), reader))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if want := `the whole body <nil>, ["100-continue"]`; string(body) != want || err != nil {
			t.Errorf("%s: answered %s %.100q %v, want %q", path, resp.Status, body, err, want)
		}
		waitOutcomes(t, c, "replayed", n+1)
	}
	// As with a plain reverse_proxy, this one is answered when its body has come.
	conn, reader := begin("/off")
	fmt.Fprint(conn, "the whole body")
	resp, err := readFinal(reader)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusUnauthorized || string(body) != refusedBody || err != nil {
		t.Errorf("/off: answered %s, %d bytes, %v", resp.Status, len(body), err)
	}
	eventuallyServed(t, "off", url+"/off")
}
