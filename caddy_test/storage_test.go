package caddy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/faultstorage"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// strangeEntry is what somebody finds where a source's token was stored.
type strangeEntry struct {
	word  string
	newer bool // of a version that is not known yet
	write func(before []byte) []byte
}

var strangeEntries = []strangeEntry{
	{word: "corrupted", write: func(before []byte) []byte {
		after := bytes.Clone(before)
		for i := len(after) / 3; i < len(after)/2; i++ {
			after[i] ^= 0x55
		}
		return after
	}},
	{word: "truncated", write: func(before []byte) []byte { return before[:len(before)/2] }},
	{word: "empty", write: func([]byte) []byte { return nil }},
	{word: "zeros", write: func(before []byte) []byte { return make([]byte, len(before)) }},
	{word: "foreign", write: func([]byte) []byte {
		return []byte(`{"status":"valid","contact":["mailto:peter@example.org"]}`)
	}},
	{word: "newer", newer: true, write: func(before []byte) []byte {
		var record map[string]any
		if json.Unmarshal(before, &record) != nil {
			return nil
		}
		record["version"] = 99
		record["of_later"] = "something"
		after, _ := json.Marshal(record)
		return after
	}},
}

// TestAnEntryThatCannotBeReadIsKeptAsideAndReplacedWhereNoPersonIsNeeded finds
// something else where the token was when Caddy starts again.
func TestAnEntryThatCannotBeReadIsKeptAsideAndReplacedWhereNoPersonIsNeeded(t *testing.T) {
	t.Parallel()
	control := faultstorage.New(t)
	all := make(map[*trial]strangeEntry)
	for _, entry := range strangeEntries {
		for _, g := range []grant{plainGrant, refreshGrant} {
			tr := newTrial(t, control, fault{word: entry.word, title: entry.word}, row{grant: g}, none)
			all[tr] = entry
		}
	}
	primed := primeTrials(t, keysOf(all))
	written := make(map[*trial][]byte)
	for tr, entry := range all {
		written[tr] = entry.write(tr.readStored("token.json"))
		tr.writeStored("token.json", written[tr])
		tr.asked = primed[tr]
	}
	startTrials(t, keysOf(all))
	var running sync.WaitGroup
	for tr, entry := range all {
		running.Go(func() { tr.checkStrange(entry.newer, written[tr]) })
	}
	running.Wait()
}

// TestAnEntryOfAnotherKeyIsKeptAsideAndReplacedWhereNoPersonIsNeeded starts
// Caddy again with another encryption key.
func TestAnEntryOfAnotherKeyIsKeptAsideAndReplacedWhereNoPersonIsNeeded(t *testing.T) {
	t.Parallel()
	control := faultstorage.New(t)
	var all []*trial
	for _, g := range []grant{plainGrant, refreshGrant} {
		all = append(all, newTrial(t, control, fault{word: "foreignkey", title: "another key"}, row{grant: g}, none))
	}
	for _, tr := range all {
		tr.global = "encryption_key " + newKey(t)
	}
	primed := primeTrials(t, all)
	written := make(map[*trial][]byte)
	for _, tr := range all {
		written[tr], tr.asked = tr.readStored("token.json"), primed[tr]
		for _, token := range tr.p.IssuedTokens() {
			if bytes.Contains(written[tr], []byte(token)) {
				tr.errorf("the record holds a token although there is a key")
			}
		}
		tr.global = "encryption_key " + newKey(t)
	}
	startTrials(t, all)
	for _, tr := range all {
		tr.checkStrange(false, written[tr])
	}
}

// newKey is what caddy token-source keygen prints.
func newKey(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(harness.Output(t, t.TempDir(), "token-source", "keygen"))
}

// primeTrials gives each trial a token that is stored, and stops Caddy. It
// returns how many token requests there were.
func primeTrials(t *testing.T, all []*trial) map[*trial]int {
	t.Helper()
	c := startTrials(t, all)
	for _, tr := range all {
		tr.eventually(30*time.Second, "the token is stored", func() bool { return len(tr.control.Files(tr.name, "token.json")) == 1 })
	}
	c.Stop()
	asked := make(map[*trial]int)
	for _, tr := range all {
		asked[tr] = tr.p.Count()
	}
	return asked
}

func keysOf[V any](m map[*trial]V) []*trial {
	var keys []*trial
	for tr := range m {
		keys = append(keys, tr)
	}
	return keys
}

// readStored returns a stored file of the source, or nil if there is none.
func (tr *trial) readStored(name string) []byte {
	tr.t.Helper()
	paths := tr.control.Files(tr.name, name)
	if len(paths) == 0 {
		return nil
	}
	text, err := os.ReadFile(paths[0])
	if err != nil {
		tr.errorf("%v", err)
	}
	return text
}

// writeStored puts something else into a stored file.
func (tr *trial) writeStored(name string, text []byte) {
	tr.t.Helper()
	for _, path := range tr.control.Files(tr.name, name) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			tr.errorf("%v", err)
		}
	}
}

// checkStrange wants a source that found something else in the storage to do
// what it can without a person, and nothing that loses anything.
func (tr *trial) checkStrange(newer bool, written []byte) {
	status, requests := http.StatusOK, 1
	if tr.row.grant == refreshGrant {
		status, requests = http.StatusBadGateway, 0
	}
	for range 5 {
		if got := tryToAsk(tr.url); got.status != status {
			tr.errorf("answered %d %q, want %d", got.status, got.body, status)
		}
	}
	if n := tr.p.Count() - tr.asked; n != requests {
		tr.errorf("%d token requests, want %d", n, requests)
	}
	if n := tr.p.Reused(); n != 0 {
		tr.errorf("%d refresh tokens were spent twice", n)
	}
	if tr.row.grant == refreshGrant || newer {
		if !bytes.Equal(tr.readStored("token.json"), written) {
			tr.errorf("what was found there was overwritten")
		}
	} else {
		tr.eventually(20*time.Second, "the new token is stored", func() bool { return tr.storedToken() == tr.sentToken() || tr.encrypted() })
		if !bytes.Equal(tr.readStored("unreadable.json"), written) {
			tr.errorf("what was found there was not kept aside")
		}
	}
	told := 0
	for _, line := range tr.sourceLines() {
		text, _ := json.Marshal(line)
		if line["level"] != "info" && line["level"] != "debug" && bytes.Contains(text, []byte("token.json")) {
			told++
		}
	}
	if told != 1 {
		tr.errorf("%d lines of the log name the record, want one; the log: %v", told, tr.sourceLines())
	}
}

// encrypted says whether the record is encrypted.
func (tr *trial) encrypted() bool {
	_, is := tr.control.Record(tr.name)["ciphertext"]
	return is
}

// TestWhereTheStorageFailsServingGoesOnFromMemory lets the storage fail for
// many lifetimes of the tokens.
func TestWhereTheStorageFailsServingGoesOnFromMemory(t *testing.T) {
	t.Parallel()
	control := faultstorage.New(t)
	release := make(chan struct{})
	rules := map[string]faultstorage.Rule{"full": faultstorage.Full, "readonly": faultstorage.ReadOnly, "hanging": faultstorage.Hang(release)}
	var all []*trial
	for word := range rules {
		for _, g := range []grant{plainGrant, rotatingGrant} {
			all = append(all, newTrial(t, control, fault{word: word, title: word}, row{grant: g}, expired))
		}
	}
	c := startTrials(t, all)
	for _, tr := range all {
		tr.eventually(30*time.Second, "the token is stored", func() bool { return tr.storedToken() != "" })
		tr.control.Set(tr.name, rules[tr.fault.word])
		tr.asked, tr.lines = tr.p.Count(), len(tr.sourceLines())
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var asking sync.WaitGroup
	for _, tr := range all {
		asking.Go(func() {
			for ctx.Err() == nil {
				if got := tryToAsk(tr.url); got.status != http.StatusOK {
					tr.errorf("answered %d %q while the storage fails", got.status, got.body)
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	for _, tr := range all {
		tr.eventually(60*time.Second, "the token is renewed again and again without a storage", func() bool { return tr.p.Count() >= tr.asked+3 })
		tr.p.Set(func(k *provider.Knobs) { k.Lifetime = time.Hour })
	}
	close(release)
	for _, tr := range all {
		tr.control.Set(tr.name, nil)
	}
	for _, tr := range all {
		tr.eventually(90*time.Second, "the token is stored again", func() bool {
			stored := tr.storedToken()
			return stored != "" && stored == tr.sentToken() && tr.count("info", "the token is stored again", "") == 1
		})
		if n := tr.count("warn", unstored, ""); n != 1 {
			tr.errorf("%d lines of the log say that it could not be stored, want one", n)
		}
	}
	stop()
	asking.Wait()
	for _, tr := range all {
		if n := tr.p.Reused(); n != 0 {
			tr.errorf("%d refresh tokens were spent twice", n)
		}
		if tr.row.grant == rotatingGrant && tr.requestsBy("refresh_token", tr.asked) > 1 { // one may have been under way
			tr.errorf("%d refresh tokens were spent that could not be stored, although there is another grant", tr.requestsBy("refresh_token", tr.asked))
		}
		tr.asked = tr.p.Count()
	}

	// What is stored is enough for the next process.
	c.Stop()
	for _, tr := range all {
		tr.answers(provider.Fail(503, ""))
	}
	startTrials(t, all)
	for _, tr := range all {
		if got := tryToAsk(tr.url); got.status != http.StatusOK {
			tr.errorf("answered %d %q after a restart", got.status, got.body)
		}
		if n := tr.p.Count() - tr.asked; n != 0 {
			tr.errorf("%d token requests after a restart", n)
		}
	}
}

// requestsBy counts the token requests of a grant, without the first ones.
func (tr *trial) requestsBy(grantType string, skip int) int {
	n := 0
	for _, r := range tr.p.Requests()[skip:] {
		if r.Form.Get("grant_type") == grantType {
			n++
		}
	}
	return n
}

// TestANodeWithoutAStorageDoesNotSpendTheRefreshTokenOfAll has two nodes on one
// storage, which hangs for one of them.
func TestANodeWithoutAStorageDoesNotSpendTheRefreshTokenOfAll(t *testing.T) {
	t.Parallel()
	control := faultstorage.New(t)
	tr := newTrial(t, control, fault{word: "shared", title: "shared"}, row{grant: refreshGrant}, expired)
	tr.p.Set(func(k *provider.Knobs) { k.Lifetime = 4 * time.Second })
	startTrials(t, []*trial{tr})
	firstURL := tr.url
	second := startTrials(t, []*trial{tr})
	secondURL := tr.url
	for _, url := range []string{firstURL, secondURL} {
		tr.eventually(30*time.Second, "both nodes serve", func() bool { return tryToAsk(url).status == http.StatusOK })
	}
	tr.eventually(60*time.Second, "both nodes have renewed or adopted", func() bool {
		return tr.p.Count() >= 3 && strings.Contains(second.Log(), "token adopted")
	})

	release := make(chan struct{})
	hang := faultstorage.Hang(release)
	// It is cut off when it begins a renewal: with a refresh token that it has
	// spent, and not stored what came of it, nobody could help.
	var isCut atomic.Bool
	tr.control.Set(tr.name, func(ctx context.Context, o faultstorage.Operation) faultstorage.Verdict {
		if o.PID != second.PID() || o.Op != "lock" && !isCut.Load() {
			return faultstorage.Verdict{}
		}
		isCut.Store(true)
		return hang(ctx, o)
	})
	tr.eventually(60*time.Second, "the second node begins a renewal", isCut.Load)
	cut := time.Now()
	for time.Since(cut) < 12*time.Second {
		if got := tryToAsk(firstURL); got.status != http.StatusOK {
			tr.errorf("the node with a storage answered %d %q", got.status, got.body)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// The token of the second has ended, and the next one it cannot know.
	if got := tryToAsk(secondURL); got.status != http.StatusServiceUnavailable && got.status != http.StatusGatewayTimeout {
		tr.errorf("the node without a storage answered %d %q", got.status, got.body)
	}
	close(release)
	tr.eventually(60*time.Second, "the second node serves when its storage works again", func() bool { return tryToAsk(secondURL).status == http.StatusOK })
	if got := tryToAsk(firstURL); got.status != http.StatusOK {
		tr.errorf("the first node answered %d %q at the end", got.status, got.body)
	}
	if n := tr.p.Reused(); n != 0 {
		tr.errorf("%d refresh tokens were spent twice", n)
	}
}

// TestARefreshTokenAloneGoesOnFromMemoryWhereNobodyElseHasIt has the storage
// that Caddy uses by itself, and a folder in it that cannot be used.
func TestARefreshTokenAloneGoesOnFromMemoryWhereNobodyElseHasIt(t *testing.T) {
	t.Parallel()
	control := faultstorage.New(t)
	tr := newTrial(t, control, fault{word: "alone", title: "alone"}, row{grant: refreshGrant}, expired)
	tr.own = true
	c := startTrials(t, []*trial{tr})
	control.Root = filepath.Join(c.Dir, "data", "caddy")
	folder := filepath.Join(control.Root, "token_sources", tr.name)
	tr.eventually(30*time.Second, "the token is stored", func() bool { return tr.storedToken() != "" })
	if err := os.Rename(folder, folder+".away"); err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, filepath.Dir(folder), tr.name, "a file where a folder should be")
	tr.asked = tr.p.Count()
	for tr.p.Count() < tr.asked+4 {
		if got := tryToAsk(tr.url); got.status != http.StatusOK {
			tr.errorf("answered %d %q while the storage fails", got.status, got.body)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	if tr.count("warn", unstored, "") == 0 {
		tr.errorf("the log does not say that the token could not be stored")
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(folder+".away", folder); err != nil {
		t.Fatal(err)
	}
	tr.p.Set(func(k *provider.Knobs) { k.Lifetime = time.Hour })
	tr.eventually(90*time.Second, "the token is stored again", func() bool {
		return tryToAsk(tr.url).status == http.StatusOK && tr.storedToken() == tr.sentToken()
	})
	if n := tr.p.Reused(); n != 0 {
		tr.errorf("%d refresh tokens were spent twice", n)
	}
}

// TestRecordsAreReadableByTheirOwnerAlone looks at what lies in the storage.
func TestRecordsAreReadableByTheirOwnerAlone(t *testing.T) {
	t.Parallel()
	control := faultstorage.New(t)
	tr := newTrial(t, control, fault{word: "modes", title: "modes"}, row{grant: refreshGrant}, none)
	primeTrials(t, []*trial{tr})
	err := filepath.Walk(filepath.Join(control.Root, "token_sources"), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			tr.errorf("%s can be read by others: %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
