package injecttoken

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// store keeps the tokens of one source in Caddy's storage:
//
//	token_sources/NAME/IDENTITY/token.json              the newest token
//	token_sources/NAME/IDENTITY/intent-NODE-CLAIM.json  while NODE spends a refresh token
//	token_sources/NAME/IDENTITY/unreadable.json         what could not be read
//	token_sources/NAME/IDENTITY/authorization-ID.json   what a person has begun
//
// IDENTITY is a digest of the provider, the client and what is asked for. It is
// made anew at each access, since it may depend on placeholders.
type store struct {
	storage certmagic.Storage
	name    string
	source  *tokensource.Source
	keys    encryptionKeys
}

// recordVersion is of what is written. Of what is read it is the highest that is
// understood; an entry with a higher one is left alone.
const recordVersion = 1

// record is the form of token.json. With encryption, Ciphertext stands in the
// place of Token, and all else and the storage key are bound to it.
type record struct {
	Version    int             `json:"version"`
	Counter    uint64          `json:"counter"`
	Origin     string          `json:"origin"`
	Node       string          `json:"node"`
	Stored     time.Time       `json:"stored"`
	Shared     bool            `json:"shared,omitempty"`
	Grant      uint64          `json:"grant,omitempty"`
	Revoked    bool            `json:"revoked,omitempty"` // and there is no token
	KeyID      string          `json:"key_id,omitempty"`
	Ciphertext []byte          `json:"ciphertext,omitempty"`
	Token      json.RawMessage `json:"token,omitempty"`
}

// intent is the form of intent-NODE-CLAIM.json.
type intent struct {
	Version int       `json:"version"`
	Node    string    `json:"node"`
	Claim   uint64    `json:"claim"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Counter uint64    `json:"counter"`
	Beat    uint64    `json:"beat"`
	Time    time.Time `json:"time"`
}

// node is the name of this process among those that share a storage.
var node = func() string {
	name := make([]byte, 8)
	_, _ = rand.Read(name)
	return hex.EncodeToString(name)
}()

// Shared is part of refresher.Store, as are the methods that follow. It says
// whether the storage was chosen: the one that Caddy uses by itself
// is a folder of this machine.
func (s *store) Shared() bool { return s.storage != caddy.DefaultStorage }

// dir is the storage key of all that belongs to this source.
func (s *store) dir() (string, error) {
	identity, err := s.source.Identity()
	if err != nil {
		return "", refresher.ErrNoIdentity
	}
	sum := sha256.Sum256([]byte(identity))
	return path.Join("token_sources", s.name, hex.EncodeToString(sum[:16])), nil
}

func (s *store) lockName() (string, error) {
	dir, err := s.dir()
	return strings.ReplaceAll(strings.TrimSuffix(dir, "/"), "/", "_"), err
}

func (s *store) Load(ctx context.Context) (*refresher.Record, error) {
	key, text, err := s.read(ctx)
	if err != nil || text == nil {
		return nil, err
	}
	return s.decode(key, text)
}

// read returns what is stored, or nil.
func (s *store) read(ctx context.Context) (key string, text []byte, err error) {
	dir, err := s.dir()
	if err != nil {
		return "", nil, err
	}
	key = path.Join(dir, "token.json")
	text, err = s.storage.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return key, nil, nil
	}
	return key, text, quietStorage(err)
}

// decode reads a record. It says of one that it cannot read what it is.
func (s *store) decode(key string, text []byte) (*refresher.Record, error) {
	unreadable := func(format string, args ...any) error {
		return &refresher.Unreadable{Reason: "the entry " + key + " of the storage " + fmt.Sprintf(format, args...)}
	}
	var version struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(text, &version) != nil || version.Version < 1 {
		return nil, unreadable("is not one of ours, or damaged")
	}
	if version.Version > recordVersion {
		return nil, &refresher.Unreadable{Newer: true, Reason: fmt.Sprintf(
			"the entry %s of the storage was written by a later version of this module (%d, this one knows %d); it is left alone", key, version.Version, recordVersion)}
	}
	var r record
	if json.Unmarshal(text, &r) != nil || r.Counter == 0 || r.Counter > math.MaxInt64 {
		return nil, unreadable("is damaged")
	}
	plain := []byte(r.Token)
	if r.Ciphertext != nil {
		keys, err := s.keys.resolve()
		if err != nil {
			return nil, err
		}
		key, known := keys.byID(r.KeyID)
		if !known {
			return nil, unreadable("is encrypted with the key %.16q, which is not among encryption_key", r.KeyID)
		}
		if plain, err = key.open(r.Ciphertext, s.bound(r)); err != nil {
			return nil, unreadable("is damaged, or belongs to another source")
		}
	}
	if r.Revoked {
		return &refresher.Record{Counter: r.Counter, Origin: r.Origin, Grant: r.Grant, Shared: r.Shared}, nil
	}
	token, err := tokensource.Decode(plain)
	if err != nil {
		return nil, unreadable("is damaged")
	}
	return &refresher.Record{Counter: r.Counter, Origin: r.Origin, Grant: r.Grant, Token: token, Foreign: !s.source.Takes(token), Shared: r.Shared}, nil
}

// bound is what the ciphertext of a record is bound to.
func (s *store) bound(r record) []byte {
	dir, _ := s.dir()
	r.Ciphertext, r.Token = nil, nil
	text, _ := json.Marshal(r)
	return append([]byte(dir+"\n"), text...)
}

func (s *store) Save(ctx context.Context, r *refresher.Record) error {
	dir, err := s.dir()
	if err != nil {
		return err
	}
	text, err := s.encode(r)
	if err != nil {
		return err
	}
	if err := s.storage.Store(ctx, path.Join(dir, "token.json"), text); err != nil {
		return quietStorage(err)
	}
	s.tidy(ctx, dir)
	return nil
}

func (s *store) encode(r *refresher.Record) ([]byte, error) {
	plain := []byte("{}")
	if r.Token != nil {
		var err error
		if plain, err = r.Token.Encode(); err != nil {
			return nil, err
		}
	}
	out := record{
		Version: recordVersion, Counter: r.Counter, Origin: r.Origin, Grant: r.Grant, Node: node,
		Stored: time.Now().UTC().Truncate(time.Millisecond), Shared: r.Shared, Revoked: r.Token == nil,
	}
	keys, err := s.keys.resolve()
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		out.Token = plain
		return json.Marshal(out)
	}
	out.KeyID = keys[0].id
	out.Ciphertext = keys[0].seal(plain, s.bound(out))
	return json.Marshal(out)
}

// leftoverAge is how old a file is at least that a process which was killed has
// left behind, and not one that is just being written.
const leftoverAge = time.Minute

// tidy removes authorizations that nobody asks for any more, and what processes
// have left that were killed while they stored something: Caddy's file storage
// writes into files whose names are digits.
func (s *store) tidy(ctx context.Context, dir string) {
	keys, err := s.storage.List(ctx, dir, false)
	if err != nil {
		return
	}
	for _, key := range keys {
		age := leftoverAge
		switch name := path.Base(key); {
		case strings.HasPrefix(name, "authorization-"):
			age = maxAuthorizationAge
		case strings.Trim(name, "0123456789") != "":
			continue
		}
		key = path.Join(dir, path.Base(key))
		if info, err := s.storage.Stat(ctx, key); err == nil && time.Since(info.Modified) > age {
			_ = s.storage.Delete(ctx, key)
		}
	}
}

func (s *store) SetAside(ctx context.Context) error {
	key, text, err := s.read(ctx)
	if err != nil || text == nil {
		return err
	}
	if _, err := s.decode(key, text); err == nil {
		return nil // another node has seen to it
	}
	if err := s.storage.Store(ctx, path.Join(path.Dir(key), "unreadable.json"), text); err != nil {
		return quietStorage(err)
	}
	return quietStorage(s.storage.Delete(ctx, key))
}

func (s *store) Intents(ctx context.Context) ([]refresher.Intent, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	keys, err := s.storage.List(ctx, dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, quietStorage(err)
	}
	var all []refresher.Intent
	for _, key := range keys {
		node, claim, isIntent := parseIntentKey(key)
		if !isIntent {
			continue
		}
		text, err := s.storage.Load(ctx, path.Join(dir, path.Base(key))) // some storages list names alone
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, quietStorage(err)
		}
		var i intent
		if json.Unmarshal(text, &i) != nil { // that it is there says enough
			i = intent{Counter: math.MaxUint64}
		}
		all = append(all, refresher.Intent{Node: node, Claim: claim, Counter: i.Counter, Beat: i.Beat})
	}
	return all, nil
}

func (s *store) SaveIntent(ctx context.Context, i refresher.Intent) error {
	dir, err := s.dir()
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	text, err := json.Marshal(intent{Version: recordVersion, Node: i.Node, Claim: i.Claim, Host: host, PID: os.Getpid(), Counter: i.Counter, Beat: i.Beat, Time: time.Now().UTC()})
	if err != nil {
		return err
	}
	return quietStorage(s.storage.Store(ctx, intentKey(dir, i), text))
}

func (s *store) RemoveIntent(ctx context.Context, i refresher.Intent) error {
	dir, err := s.dir()
	if err != nil {
		return err
	}
	err = s.storage.Delete(ctx, intentKey(dir, i))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return quietStorage(err)
}

func intentKey(dir string, i refresher.Intent) string {
	return path.Join(dir, fmt.Sprintf("intent-%s-%d.json", i.Node, i.Claim))
}

func parseIntentKey(key string) (node string, claim uint64, ok bool) {
	name, ok := strings.CutPrefix(strings.TrimSuffix(path.Base(key), ".json"), "intent-")
	if !ok {
		return "", 0, false
	}
	node, number, _ := strings.Cut(name, "-")
	claim, err := strconv.ParseUint(number, 10, 64)
	return node, claim, err == nil
}

func (s *store) Lock(ctx context.Context) error {
	name, err := s.lockName()
	if err != nil {
		return err
	}
	return quietStorage(s.storage.Lock(ctx, name))
}

func (s *store) Unlock(ctx context.Context) error {
	name, err := s.lockName()
	if err != nil {
		return err
	}
	if err := s.storage.Unlock(ctx, name); !errors.Is(err, fs.ErrNotExist) {
		return quietStorage(err)
	}
	return nil
}

// quietStorage takes addresses out of a storage's error: one may hold the
// password of a database.
func quietStorage(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("storage: %w", withoutAddress(err))
}
