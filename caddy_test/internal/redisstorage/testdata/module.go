// This file is compiled into a caddy of the tests, as a module that somebody
// adds to Caddy.

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

func init() { caddy.RegisterModule(new(smallRedis)) }

// smallRedis is a storage on a redis-server.
type smallRedis struct {
	Address string `json:"address,omitempty"`
	Prefix  string `json:"prefix,omitempty"`
}

func (*smallRedis) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.small_redis", New: func() caddy.Module { return new(smallRedis) }}
}

func (s *smallRedis) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&s.Address, &s.Prefix) {
		return d.ArgErr()
	}
	return nil
}

func (s *smallRedis) CertMagicStorage() (certmagic.Storage, error) {
	return &redisStorage{address: s.Address, prefix: s.Prefix, locks: make(map[string]redisLock)}, nil
}

// How long a lock lives without its holder, how often the holder renews it, and
// how often others look.
const (
	lockLives  = 5 * time.Second
	lockRenews = lockLives / 4
	lockPolls  = 100 * time.Millisecond
)

type redisStorage struct {
	address, prefix string

	mu    sync.Mutex // guards locks
	locks map[string]redisLock
}

type redisLock struct {
	owner string
	end   context.CancelFunc // of its renewals
}

func (s *redisStorage) value(key string) string { return s.prefix + "/value/" + key }
func (s *redisStorage) lock(name string) string { return s.prefix + "/lock/" + name }

func (s *redisStorage) Store(ctx context.Context, key string, value []byte) error {
	_, err := s.do(ctx, "HSET", s.value(key), "value", string(value), "modified", strconv.FormatInt(time.Now().UnixNano(), 10))
	return err
}

func (s *redisStorage) Load(ctx context.Context, key string) ([]byte, error) {
	reply, err := s.do(ctx, "HGET", s.value(key), "value")
	if err != nil {
		return nil, err
	}
	value, found := reply.(string)
	if !found {
		return nil, fs.ErrNotExist
	}
	return []byte(value), nil
}

func (s *redisStorage) Delete(ctx context.Context, key string) error {
	keys, err := s.below(ctx, key)
	if err != nil {
		return err
	}
	for _, k := range append(keys, key) {
		if _, err := s.do(ctx, "DEL", s.value(k)); err != nil {
			return err
		}
	}
	return nil
}

func (s *redisStorage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// below returns the keys of values that begin with a key and a slash.
func (s *redisStorage) below(ctx context.Context, key string) ([]string, error) {
	key = strings.TrimSuffix(key, "/")
	escaped := strings.NewReplacer("*", `\*`, "?", `\?`, "[", `\[`, `\`, `\\`).Replace(s.value(key))
	pattern := escaped + "/*"
	if key == "" {
		pattern = escaped + "*"
	}
	reply, err := s.do(ctx, "KEYS", pattern)
	if err != nil {
		return nil, err
	}
	list, _ := reply.([]any)
	var keys []string
	for _, k := range list {
		if name, ok := k.(string); ok {
			keys = append(keys, strings.TrimPrefix(name, s.value("")))
		}
	}
	return keys, nil
}

func (s *redisStorage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	prefix = strings.TrimSuffix(prefix, "/")
	below, err := s.below(ctx, prefix)
	if err != nil {
		return nil, err
	}
	if len(below) == 0 {
		return nil, fs.ErrNotExist
	}
	seen := make(map[string]bool)
	var keys []string
	for _, key := range below {
		parts := strings.Split(strings.TrimPrefix(strings.TrimPrefix(key, prefix), "/"), "/")
		if !recursive {
			parts = parts[:1]
		}
		at := prefix
		for _, part := range parts { // folders as well, as the file storage has it
			at = strings.TrimPrefix(at+"/"+part, "/")
			if !seen[at] {
				seen[at] = true
				keys = append(keys, at)
			}
		}
	}
	return keys, nil
}

func (s *redisStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	reply, err := s.do(ctx, "HMGET", s.value(key), "value", "modified")
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	if fields, ok := reply.([]any); ok && len(fields) == 2 && fields[0] != nil {
		nanoseconds, _ := strconv.ParseInt(fmt.Sprint(fields[1]), 10, 64)
		return certmagic.KeyInfo{Key: key, Modified: time.Unix(0, nanoseconds), Size: int64(len(fields[0].(string))), IsTerminal: true}, nil
	}
	below, err := s.below(ctx, key)
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	if len(below) == 0 {
		return certmagic.KeyInfo{}, fs.ErrNotExist
	}
	return certmagic.KeyInfo{Key: key}, nil
}

func (s *redisStorage) Lock(ctx context.Context, name string) error {
	for {
		locked, err := s.TryLock(ctx, name)
		if locked || err != nil {
			return err
		}
		select {
		case <-time.After(lockPolls):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *redisStorage) TryLock(ctx context.Context, name string) (bool, error) {
	owner := rand.Text()
	reply, err := s.do(ctx, "SET", s.lock(name), owner, "NX", "PX", milliseconds(lockLives))
	if err != nil || reply == nil {
		return false, err
	}
	renewing, end := context.WithCancel(context.Background())
	s.mu.Lock()
	s.locks[name] = redisLock{owner, end}
	s.mu.Unlock()
	go func() { // until Unlock
		for {
			select {
			case <-time.After(lockRenews):
				_, _ = s.ifOwner(renewing, name, owner, "return redis.call('pexpire', KEYS[1], "+milliseconds(lockLives)+")")
			case <-renewing.Done():
				return
			}
		}
	}()
	return true, nil
}

func (s *redisStorage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	held, ok := s.locks[name]
	delete(s.locks, name)
	s.mu.Unlock()
	if !ok {
		return errors.New("the lock is not held")
	}
	held.end()
	_, err := s.ifOwner(ctx, name, held.owner, "return redis.call('del', KEYS[1])")
	return err
}

// ifOwner does something where a lock is still its owner's.
func (s *redisStorage) ifOwner(ctx context.Context, name, owner, do string) (any, error) {
	script := "if redis.call('get', KEYS[1]) == ARGV[1] then " + do + " end return 0"
	return s.do(ctx, "EVAL", script, "1", s.lock(name), owner)
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// do sends a command on a connection of its own and returns the reply: nil, a
// string, an int64 or a list of them.
func (s *redisStorage) do(ctx context.Context, args ...string) (any, error) {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", s.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var command strings.Builder
	fmt.Fprintf(&command, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&command, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := io.WriteString(conn, command.String()); err != nil {
		return nil, err
	}
	return readReply(bufio.NewReader(conn))
}

func readReply(r *bufio.Reader) (any, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return nil, errors.New("an empty reply")
	}
	switch text := line[1:]; line[0] {
	case '+':
		return text, nil
	case '-':
		return nil, errors.New(text)
	case ':':
		return strconv.ParseInt(text, 10, 64)
	case '$':
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, err
		}
		value := make([]byte, n+2)
		if _, err := io.ReadFull(r, value); err != nil {
			return nil, err
		}
		return string(value[:n]), nil
	case '*':
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, err
		}
		list := make([]any, n)
		for i := range list {
			if list[i], err = readReply(r); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("not a reply: %q", line)
}
