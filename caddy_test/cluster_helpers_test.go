package caddy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

// text returns everything that the storage holds, with the paths.
func (f sharedFolder) text(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(string(f), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all.WriteString(path + "\n" + string(text) + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
