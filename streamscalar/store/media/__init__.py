"""The media that hold a store: folders and buckets, their durable writes and their locks."""
