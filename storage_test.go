package injecttoken

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// newTestStore is the store of a source over files in a folder.
func newTestStore(t testing.TB, dir, name string, keys ...string) *store {
	t.Helper()
	source, err := tokensource.New(tokensource.Config{Grant: "client_credentials", TokenURL: "https://auth.example.org/" + name, ClientID: "crm"})
	if err != nil {
		t.Fatal(err)
	}
	return &store{storage: &certmagic.FileStorage{Path: dir}, name: name, source: source, keys: keys}
}

func testRecord(counter uint64) *refresher.Record {
	return &refresher.Record{Counter: counter, Token: &tokensource.Token{
		AccessToken: fmt.Sprintf("access-%d", counter), RefreshToken: "refresh", Issued: time.Now().Round(0), Lifetime: time.Hour,
	}}
}

// file returns where the one record in a folder lies.
func recordFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "token_sources", "*", "*", "token.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("there are %v: %v", files, err)
	}
	return files[0]
}

func TestWhatIsStoredIsFoundAgain(t *testing.T) {
	for _, keys := range [][]string{nil, {NewEncryptionKey()}, {NewEncryptionKey(), NewEncryptionKey()}} {
		dir := t.TempDir()
		s := newTestStore(t, dir, "crm", keys...)
		if r, err := s.Load(t.Context()); r != nil || err != nil {
			t.Fatalf("an empty storage holds %v, %v", r, err)
		}
		want := testRecord(7)
		want.Shared = true
		if err := s.Save(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		got, err := newTestStore(t, dir, "crm", keys...).Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got.Counter != 7 || !got.Shared || got.Token.AccessToken != "access-7" || got.Token.RefreshToken != "refresh" ||
			!got.Token.Issued.Equal(want.Token.Issued) || got.Token.Lifetime != time.Hour {
			t.Errorf("found %+v with %+v", got, got.Token)
		}
		file := recordFile(t, dir)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if shown := bytes.Contains(text, []byte("access-7")) || bytes.Contains(text, []byte("refresh")); shown != (keys == nil) {
			t.Errorf("with %d keys the token is shown: %v", len(keys), shown)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file is %v, %v", info.Mode(), err)
		}
	}
}

func TestEveryKeyDecryptsAndTheFirstOneEncrypts(t *testing.T) {
	dir, old, new := t.TempDir(), NewEncryptionKey(), NewEncryptionKey()
	save := func(counter uint64, keys ...string) {
		t.Helper()
		if err := newTestStore(t, dir, "crm", keys...).Save(t.Context(), testRecord(counter)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(counter uint64, keys ...string) {
		t.Helper()
		if r, err := newTestStore(t, dir, "crm", keys...).Load(t.Context()); err != nil || r.Counter != counter {
			t.Errorf("found %v, %v", r, err)
		}
	}
	wantUnreadable := func(keys ...string) {
		t.Helper()
		_, err := newTestStore(t, dir, "crm", keys...).Load(t.Context())
		if u, ok := errors.AsType[*refresher.Unreadable](err); !ok || u.Newer || !strings.Contains(u.Reason, "encryption_key") {
			t.Errorf("the error is %v", err)
		}
	}
	save(1)
	want(1, old) // a key may be introduced
	save(2, old)
	want(2, new, old)
	wantUnreadable(new)
	wantUnreadable()
	save(3, new, old)
	want(3, new)
	wantUnreadable(old)
}

func TestAMissingKeyIsNoReasonToStoreInClear(t *testing.T) {
	s := newTestStore(t, t.TempDir(), "crm", "{env.INJECT_TOKEN_NO_SUCH_KEY}")
	if err := s.Save(t.Context(), testRecord(1)); err == nil || !strings.Contains(err.Error(), "{env.INJECT_TOKEN_NO_SUCH_KEY}") {
		t.Errorf("the error is %v", err)
	}
	if r, err := s.Load(t.Context()); r != nil || err != nil {
		t.Errorf("stored %v, %v", r, err)
	}
}

// TestAnEntryCannotStandInAnothersPlace moves what was stored.
func TestAnEntryCannotStandInAnothersPlace(t *testing.T) {
	dir, key := t.TempDir(), NewEncryptionKey()
	crm, billing := newTestStore(t, dir, "crm", key), newTestStore(t, dir, "billing", key)
	for _, s := range []*store{crm, billing} {
		if err := s.Save(t.Context(), testRecord(1)); err != nil {
			t.Fatal(err)
		}
	}
	from, text, err := crm.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	to, _, err := billing.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := crm.storage.Store(t.Context(), to, text); err != nil {
		t.Fatal(err)
	}
	if _, err := billing.Load(t.Context()); !isUnreadableError(err) {
		t.Errorf("from %s to %s: the error is %v", from, to, err)
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	r.Counter = 99 // bound as well
	text, _ = json.Marshal(r)
	if err := crm.storage.Store(t.Context(), from, text); err != nil {
		t.Fatal(err)
	}
	if _, err := crm.Load(t.Context()); !isUnreadableError(err) {
		t.Errorf("with another counter the error is %v", err)
	}
}

func isUnreadableError(err error) bool {
	_, unreadable := errors.AsType[*refresher.Unreadable](err)
	return unreadable
}

func TestAnEntryThatCannotBeReadIsPutAside(t *testing.T) {
	whole, err := newTestStore(t, t.TempDir(), "crm").encode(testRecord(5))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "truncated": string(whole[:len(whole)/2]), "foreign": `{"account":"me"}`, "not JSON": "\x00\x01", "an array": "[1]",
		"without a counter": `{"version":1}`, "without a token": `{"version":1,"counter":3}`,
		"with half a token":  `{"version":1,"counter":3,"token":{"access_token":""}}`,
		"no ciphertext":      `{"version":1,"counter":3,"key_id":"a","ciphertext":"AAAA"}`,
		"a negative version": `{"version":-1,"counter":3}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestStore(t, t.TempDir(), "crm")
			dir, _ := s.dir()
			if err := s.storage.Store(t.Context(), path.Join(dir, "token.json"), []byte(text)); err != nil {
				t.Fatal(err)
			}
			_, err := s.Load(t.Context())
			if !isUnreadableError(err) || !strings.Contains(err.Error(), path.Join(dir, "token.json")) {
				t.Fatalf("the error is %v", err)
			}
			if err := s.SetAside(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r, err := s.Load(t.Context()); r != nil || err != nil {
				t.Errorf("afterwards there is %v, %v", r, err)
			}
			if aside, err := s.storage.Load(t.Context(), path.Join(dir, "unreadable.json")); err != nil || string(aside) != text {
				t.Errorf("put aside is %q, %v", aside, err)
			}
		})
	}
}

func TestAnEntryOfALaterVersionIsToldApart(t *testing.T) {
	s := newTestStore(t, t.TempDir(), "crm")
	dir, _ := s.dir()
	if err := s.storage.Store(t.Context(), path.Join(dir, "token.json"), []byte(`{"version":2,"counter":"other","new":{}}`)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Load(t.Context())
	if u, ok := errors.AsType[*refresher.Unreadable](err); !ok || !u.Newer {
		t.Errorf("the error is %v", err)
	}
}

func TestAnEntryThatIsReadableIsNotPutAside(t *testing.T) {
	s := newTestStore(t, t.TempDir(), "crm")
	if err := s.Save(t.Context(), testRecord(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.SetAside(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Load(t.Context()); err != nil || r.Counter != 1 {
		t.Errorf("afterwards there is %v, %v", r, err)
	}
}

func TestIntentsAreSeenByAllAndRemovedOneByOne(t *testing.T) {
	dir := t.TempDir()
	a, b := newTestStore(t, dir, "crm"), newTestStore(t, dir, "crm")
	first, second := refresher.Intent{Node: "n1", Claim: 1, Counter: 5, Beat: 1}, refresher.Intent{Node: "n1", Claim: 2, Counter: 5, Beat: 7}
	for _, i := range []refresher.Intent{first, second} {
		if err := a.SaveIntent(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.RemoveIntent(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveIntent(t.Context(), first); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
	all, err := b.Intents(t.Context())
	if err != nil || len(all) != 1 || all[0] != second {
		t.Errorf("there are %v, %v", all, err)
	}
	// One that cannot be read is somebody's all the same.
	where, _ := a.dir()
	if err := a.storage.Store(t.Context(), intentKey(where, second), []byte("{")); err != nil {
		t.Fatal(err)
	}
	if all, err := b.Intents(t.Context()); err != nil || len(all) != 1 || all[0].Node != "n1" || all[0].Counter < second.Counter {
		t.Errorf("there are %v, %v", all, err)
	}
}

func TestALockThatNobodyHoldsCanBeGivenBack(t *testing.T) {
	s := newTestStore(t, t.TempDir(), "crm")
	if err := s.Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Unlock(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestAnErrorOfTheStorageShowsNoPassword(t *testing.T) {
	err := quietStorage(errors.New("dial redis://caddy:CANARY@redis.internal:6379/0: refused"))
	if strings.Contains(err.Error(), "CANARY") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("it is %v", err)
	}
	if wrapped := quietStorage(fs.ErrPermission); !errors.Is(wrapped, fs.ErrPermission) {
		t.Errorf("it is %v", wrapped)
	}
}

func FuzzRecord(f *testing.F) {
	key := NewEncryptionKey()
	for _, keys := range [][]string{nil, {key}} {
		text, err := newTestStore(f, f.TempDir(), "crm", keys...).encode(testRecord(5))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"version":1,"counter":3,"token":{}}`))
	s := newTestStore(f, f.TempDir(), "crm", key)
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := s.decode("key", text)
		if err != nil {
			if !isUnreadableError(err) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if r.Counter == 0 || r.Token.AccessToken == "" || r.Token.Lifetime < 0 {
			t.Errorf("%q was read as %+v", text, r.Token)
		}
		if again, err := s.encode(r); err != nil {
			t.Errorf("%q cannot be written again: %v", text, err)
		} else if _, err := s.decode("key", again); err != nil {
			t.Errorf("%q cannot be read again: %v", again, err)
		}
	})
}

// storesUntilKilled makes this a process that stores one record after the other,
// into a folder, and says so.
const storesUntilKilled = "INJECT_TOKEN_STORES_UNTIL_KILLED"

func storeUntilKilled(dir string) {
	s := newTestStore(new(testing.B), dir, "crm")
	r, err := s.Load(context.Background())
	next := uint64(1)
	if r != nil {
		next = r.Counter + 1
	}
	for ; err == nil; next++ {
		fmt.Println(next)
		err = s.Save(context.Background(), testRecord(next))
	}
	fmt.Println(err)
}

// TestARecordIsTheOldOneOrTheNewOneWheneverAProcessIsKilled kills hundreds of
// processes while they store something.
func TestARecordIsTheOldOneOrTheNewOneWheneverAProcessIsKilled(t *testing.T) {
	const workers, each = 4, 75
	var all sync.WaitGroup
	for range workers {
		dir := t.TempDir()
		all.Go(func() {
			for i := range each {
				if !killWhileStoring(t, dir) {
					t.Errorf("it was process %d", i)
					return
				}
			}
			clearLeftovers(t, dir)
		})
	}
	all.Wait()
}

func killWhileStoring(t *testing.T, dir string) bool {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), storesUntilKilled+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Error(err)
		return false
	}
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return false
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond) //nolint:gosec // any moment
	_ = cmd.Process.Kill()
	last := lines.Text()
	for lines.Scan() {
		last = lines.Text()
	}
	_ = cmd.Wait()
	var began uint64
	if _, err := fmt.Sscan(last, &began); err != nil {
		t.Errorf("the process said %q", last)
		return false
	}
	r, err := newTestStore(t, dir, "crm").Load(context.Background())
	switch {
	case err != nil:
		t.Errorf("after record %d was begun: %v", began, err)
	case r == nil && began == 1:
		return true
	case r == nil || r.Counter != began && r.Counter != began-1:
		t.Errorf("after record %d was begun there is %+v", began, r)
	default:
		return true
	}
	return false
}

// clearLeftovers wants what killed processes have left behind to be removed, and
// what somebody writes just now to stay.
func clearLeftovers(t *testing.T, dir string) {
	s := newTestStore(t, dir, "crm")
	where, _ := s.dir()
	folder := filepath.Join(dir, filepath.FromSlash(where))
	leftovers := func() (names []string) {
		entries, _ := os.ReadDir(folder)
		for _, entry := range entries {
			if entry.Name() != "token.json" {
				names = append(names, entry.Name())
			}
		}
		return names
	}
	for _, name := range leftovers() {
		long := time.Now().Add(-2 * leftoverAge)
		if err := os.Chtimes(filepath.Join(folder, name), long, long); err != nil {
			t.Error(err)
		}
	}
	for name, age := range map[string]time.Duration{"12345": 2 * leftoverAge, "67890": 0, "unreadable.json": 2 * leftoverAge} {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Chtimes(file, time.Now().Add(-age), time.Now().Add(-age)); err != nil {
			t.Error(err)
		}
	}
	r, err := s.Load(context.Background())
	if err != nil {
		t.Error(err)
		return
	}
	if err := s.Save(context.Background(), testRecord(r.Counter+1)); err != nil {
		t.Error(err)
	}
	if got := strings.Join(leftovers(), " "); got != "67890 unreadable.json" {
		t.Errorf("left are %s", got)
	}
}
